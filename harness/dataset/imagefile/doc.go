// Package imagefile reads stacks of grey images, micrographs or label masks,
// from the files that microscopists have:
//
//	format   what is read
//	NPY      (H,W), (N,H,W), (N,1,H,W), (N,H,W,1); integers, floats, booleans;
//	         C and Fortran order, both byte orders (NumPy's format 1 to 3)
//	NPZ, PRZ one such array, stored or deflated
//	DM3, DM4 an image or stack of DigitalMicrograph, thumbnails passed over
//	SER      the images of a series of TIA; what the EMI file beside it says is
//	         used, and an EMI file opens its only SER file
//	TIFF     the pages of the largest size, or one as FILE:PAGE; stacks in one
//	         directory; TIFF 6.0 and BigTIFF; 1 to 64-bit integers, 16 to 64-bit
//	         floats, palettes, RGB whose channels are equal; strips and tiles;
//	         uncompressed, LZW, Deflate, PackBits, JPEG, Zstandard, predictors
//	HDF5,    one dataset of the shapes above, or Velox's (H,W,N); the files of
//	EMD,     Velox, NCEM, HyperSpy, NeXus and MATLAB (-v7.3, H×W×N); contiguous,
//	HSPY,    compact or chunked, resizable or not; deflate, LZF, shuffle and
//	NXS      Fletcher-32 filters; groups and attributes of any version
//	MAT      one array of H×W or H×W×N of version 5 (MATLAB 5 to 7, SciPy)
//	PNG      grey or palettes, 1 to 16 bits
//	JPEG     grey
//	MRC      modes 0, 1, 2, 6 and 12 (MRC2014), with IMOD's flags and the extended
//	         headers of FEI and SerialEM
//
// Stack.Record is an image with what its file says of it: pixels that are not
// numbers, the size of a pixel along x and y with where that was found, the
// detector, the dose, and notes on what was chosen or is doubtful. What a file does
// not say stays unknown. Colours, complex numbers and arrays whose last axis counts
// channels are refused, and a file of another format is named.
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
