// Package imagefile reads stacks of grey images, micrographs or label masks,
// from the files that microscopists have:
//
//	format   what is read
//	NPY      (H,W), (N,H,W), (N,1,H,W), (N,H,W,1); integers, floats, booleans;
//	         C and Fortran order, both byte orders (NumPy's format 1 to 3)
//	NPZ      one such array, stored or deflated
//	TIFF     any number of pages of one size; TIFF 6.0 and BigTIFF; 8 to 64-bit
//	         integers, 16 to 64-bit floats; strips and tiles; uncompressed, LZW,
//	         Deflate, PackBits, with either predictor
//	HDF5,    one dataset of the shapes above, or Velox's (H,W,N); contiguous,
//	EMD      compact or chunked; deflate, LZF, shuffle and Fletcher-32 filters
//	PNG      grey or palette indices, 1 to 16 bits
//	MRC      modes 0, 1, 2, 6 and 12 (MRC2014)
//
// A folder of such files is one stack, in the order of their names.
//
// The format is told from a file's first bytes, not from its name. A file that
// holds several arrays needs the name of one after a colon: "a.npz:images",
// "b.emd:/data/stack/data".
//
// WriteNPY and WriteTIFF write float32 images as NPY and as TIFF.
//
// Nothing in a file is trusted. An image's size is believed only if the file is
// long enough to hold its pixels, at the compression's best ratio; no part of a
// file counts twice. So memory is bounded by what the file's length justifies,
// and damage gives an error, never a panic.
package imagefile
