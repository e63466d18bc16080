package imagefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxPixels bounds one image: 16384 × 16384.
const maxPixels = 1 << 28

// Stack is N grey images of H rows and W columns.
type Stack struct {
	// Format is the file's, for example "TIFF".
	Format  string
	N, H, W int

	// image fills dst, which has H·W elements, with image i.
	image func(i int, dst []float32) error
	info  Info             // of every image,
	infos func(i int) Info // unless they differ
	name  func(i int) string
	file  io.Closer
}

// Record is an image with all that its file says of it.
type Record struct {
	Info
	// File is the path, Index the image's number in it.
	File  string
	Index int
	H, W  int
	// Pixels has H·W values, row by row from the first row in the file. Those that
	// are not finite are as the file has them.
	Pixels []float32
	// Bad marks the pixels that are not finite; nil if there are none.
	Bad []bool
}

// Record reads image i.
func (s *Stack) Record(i int) (*Record, error) {
	r := &Record{File: s.Name(i), Index: i, H: s.H, W: s.W, Pixels: make([]float32, s.H*s.W)}
	if err := s.At(i, r.Pixels); err != nil {
		return nil, err
	}
	r.Info = s.Info(i)
	bad := 0
	for p, v := range r.Pixels {
		if v-v == 0 { // finite
			continue
		}
		if r.Bad == nil {
			r.Bad = make([]bool, len(r.Pixels))
		}
		r.Bad[p] = true
		bad++
	}
	r.count(r.Pixels, r.Bad)
	if bad > 0 {
		r.note("%d of %d pixels are not numbers", bad, len(r.Pixels))
	}
	return r, nil
}

// Info is what the file says of image i, 0 ≤ i < N, besides its pixels.
func (s *Stack) Info(i int) Info {
	f := s.info
	if s.infos != nil {
		f = s.infos(i)
	}
	f.Notes = slices.Clone(f.Notes)
	return f
}

// Name is the path of the file that holds image i, empty for one in memory.
func (s *Stack) Name(i int) string {
	if s.name == nil {
		return ""
	}
	return s.name(i)
}

// At fills dst with the H·W pixels of image i, row by row from the first row in
// the file. Integers too large for a float32 are rounded.
func (s *Stack) At(i int, dst []float32) error {
	if i < 0 || i >= s.N {
		return fmt.Errorf("image %d of %d", i, s.N)
	}
	if len(dst) != s.H*s.W {
		return fmt.Errorf("image %d: %d values for %d×%d pixels", i, len(dst), s.H, s.W)
	}
	if err := s.image(i, dst); err != nil {
		return fmt.Errorf("image %d: %w", i, err)
	}
	return nil
}

// Close closes the file.
func (s *Stack) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// Open opens the stack at path: "FILE", "FILE:ARRAY", or a folder whose files, in
// the order of their names, make one stack. The caller closes it.
func Open(path string) (*Stack, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return openFolder(path)
	}
	return openFile(path)
}

func openFile(path string) (*Stack, error) {
	name, member := SplitPath(path)
	if strings.EqualFold(filepath.Ext(name), ".emi") {
		ser, err := serOf(name)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		name = ser
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	s, err := Decode(f, st.Size(), member)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if s.Format == "SER" {
		s.info.companion(name)
	}
	s.file = f
	s.name = func(int) string { return name }
	return s, nil
}

// SplitPath separates the array's name from the file's. Only formats that hold
// several arrays have one, so that a colon in another file's name is a colon.
func SplitPath(path string) (file, array string) {
	i := strings.LastIndexByte(path, ':')
	if i < 0 {
		return path, ""
	}
	switch strings.ToLower(filepath.Ext(path[:i])) {
	case ".npz", ".prz", ".h5", ".hdf5", ".hdf", ".emd", ".nxs", ".hspy", ".mat", ".dm3", ".dm4", ".tif", ".tiff":
		return path[:i], path[i+1:]
	}
	return path, ""
}

// Decode reads a stack from the size bytes of r. array names one of several
// arrays and is empty otherwise.
func Decode(r io.ReaderAt, size int64, array string) (*Stack, error) {
	head := make([]byte, min(size, 64))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	starts := func(magic string) bool { return strings.HasPrefix(string(head), magic) }
	var s *Stack
	var err error
	switch {
	case starts(npyMagic):
		s, err = decodeNPY(r, size)
	case starts("PK\x03\x04"), starts("PK\x05\x06"):
		return decodeNPZ(r, size, array)
	case starts("II*\x00"), starts("MM\x00*"), starts("II+\x00"), starts("MM\x00+"):
		return decodeTIFF(r, size, array)
	case starts(matMagic):
		return decodeMAT(r, size, array)
	case starts("\x89PNG\r\n\x1a\n"):
		s, err = decodePNG(r, size)
	case starts("\xff\xd8\xff"):
		s, err = decodeJPEG(r, size)
	case starts(serMagic):
		s, err = decodeSER(r, size)
	case isDM(head):
		return decodeDM(r, size, array)
	default:
		if base, ok := findHDF5(r, size); ok {
			return decodeHDF5(r, size, base, array)
		}
		m, ok := findMRC(r, size)
		if !ok {
			return nil, unknown(r, size)
		}
		s, err = decodeMRC(m, r, size)
	}
	if err == nil && array != "" {
		err = fmt.Errorf("array %q asked for, but a file of this format holds only one", array)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// axes are the dimensions of an array that count images (-1: one image), rows and
// columns.
type axes struct{ image, row, column int }

// stackAxes is how the dimensions of an array are read as a stack.
func stackAxes(dims []int64) (axes, error) {
	one := func(i int) bool { return dims[i] == 1 }
	switch n := len(dims); {
	case n == 2, n == 3 && one(2):
		return axes{-1, 0, 1}, nil
	case n == 3 && dims[2] >= 2 && dims[2] <= 4 && dims[1] > 4:
		return axes{}, fmt.Errorf("the last axis of an array of shape %v counts channels or images, not columns: move it to the front, (N,H,W), or keep one of them", dims)
	case n == 3:
		return axes{0, 1, 2}, nil
	case n == 4 && one(1):
		return axes{0, 2, 3}, nil
	case n == 4 && one(3):
		return axes{0, 1, 2}, nil
	}
	return axes{}, fmt.Errorf("an array of shape %v is no stack of grey images: want (H,W), (N,H,W), (N,1,H,W) or (N,H,W,1)", dims)
}

// sizes returns the number of images, rows and columns, checked.
func (a axes) sizes(dims []int64) (n, h, w int64, err error) {
	n = 1
	if a.image >= 0 {
		n = dims[a.image]
	}
	h, w = dims[a.row], dims[a.column]
	return n, h, w, checkShape(n, h, w)
}

// checkShape bounds a stack's dimensions. Whether the file holds as much is for
// the reader of its format to check.
func checkShape(n, h, w int64) error {
	if n < 1 || h < 1 || w < 1 {
		return fmt.Errorf("%d images of %d×%d pixels", n, h, w)
	}
	if h > maxPixels || w > maxPixels/h {
		return fmt.Errorf("an image of %d×%d pixels is larger than %d pixels", h, w, maxPixels)
	}
	if n > (1<<62)/(h*w)/8 {
		return fmt.Errorf("%d images of %d×%d pixels are too many", n, h, w)
	}
	return nil
}
