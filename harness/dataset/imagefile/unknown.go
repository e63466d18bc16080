package imagefile

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// known are formats that are not read, by the bytes at a place, and what to do
// instead.
var known = []struct {
	at          int
	magic, name string
	instead     string
}{
	{0, "JK\x00\x02", "an EMI file of TIA", "open the SER file beside it"},
	{0, "MQ1,", "a MIB file of a Merlin detector", "save the images as TIFF or HDF5, for instance with RosettaSciIO"},
	{0, "\x00\x01\x00\x00\x01\x00\x00\x00", "a TVIPS file of EM-Menu", "export the images as TIFF"},
	{0, "\x00\x01\x00\x00\x02\x00\x00\x00", "a TVIPS file of EM-Menu", "export the images as TIFF"},
	{0, "AAMVHFSS", "a BCF file of Bruker Esprit", "export the image as TIFF"},
	{0, "IMGBLO", "a blockfile of diffraction patterns", "save a virtual image as TIFF"},
	{0, "ZISRAWFILE", "a CZI file of Zeiss ZEN", "export it as TIFF or OME-TIFF"},
	{0, "\xda\xce\xbe\x0a", "an ND2 file of Nikon", "export it as TIFF or OME-TIFF"},
	{0, "DSCOMPRESSED", "a file of Digital Surf", "export it as TIFF"},
	{0, "DIGITAL SURF", "a file of Digital Surf", "export it as TIFF"},
	{128, "DICM", "a DICOM file", "export it as TIFF"},
	{0, "SIMPLE  =", "a FITS file", "save it as TIFF, for instance with ImageJ"},
	{0, "NRRD000", "an NRRD file", "save it as TIFF, for instance with ImageJ"},
	{0, "CDF\x01", "a NetCDF 3 file", "save it as NetCDF 4, which is HDF5, or as TIFF"},
	{0, "CDF\x02", "a NetCDF 3 file", "save it as NetCDF 4, which is HDF5, or as TIFF"},
	{0, "\x0e\x03\x13\x01", "an HDF4 file", "convert it to HDF5 with h4toh5"},
	{0, "GIF8", "a GIF picture", "save it as PNG"},
	{0, "BM", "a BMP picture", "save it as PNG"},
	{8, "WEBP", "a WebP picture", "save it as PNG"},
	{0, "\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture", "save it as TIFF"},
	{0, "\x00\x00\x00\x0cJXL ", "a JPEG XL picture", "save it as PNG"},
	{4, "ftyp", "a HEIF picture or a film", "save the pictures as PNG"},
	{0, "8BPS", "a Photoshop document", "save it as TIFF"},
	{0, "%PDF", "a PDF document", "take the image from the file it was made of"},
	{0, "\xd0\xcf\x11\xe0", "an OLE document (Thumbs.db, OIB, …)", "export the image as TIFF"},
	{0, "\x1f\x8b", "a gzip file", "unpack it with gunzip"},
	{0, "BZh", "a bzip2 file", "unpack it with bunzip2"},
	{0, "\xfd7zXZ", "an xz file", "unpack it with unxz"},
	{0, "7z\xbc\xaf", "a 7z archive", "unpack it"},
	{0, "\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it with unzstd"},
	{0, "\x80\x04\x95", "a Python pickle", "save the array with numpy.save"},
	{0, "<?xml", "an XML text", "open the image that it belongs to"},
}

// unknown is the error for a file of no format that is read, by its name where that
// can be told.
func unknown(r io.ReaderAt, size int64) error {
	head := make([]byte, min(size, 512))
	if k, err := r.ReadAt(head, 0); k < len(head) {
		return noEOF(err)
	}
	const read = "only NPY, NPZ, TIFF, HDF5, EMD, MAT, DM3, DM4, SER, MRC, PNG and JPEG"
	if len(head) == 0 {
		return errors.New("the file is empty")
	}
	for _, k := range known {
		if len(head) > k.at && strings.HasPrefix(string(head[k.at:]), k.magic) {
			return fmt.Errorf("%s is not read, %s: %s", k.name, read, k.instead)
		}
	}
	return fmt.Errorf("not a file of a known format: read are %s", strings.TrimPrefix(read, "only "))
}
