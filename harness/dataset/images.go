package dataset

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/safetensors"
)

// Images gives access to a finished set, one image at a time. Its methods may be
// called concurrently.
type Images struct {
	Ready
	f *safetensors.File
}

// Open opens a set whose file is what its manifest says, which it reads as a whole to
// know.
func (r Ready) Open() (*Images, error) {
	if err := r.check(r.Path, r.SHA256); err != nil {
		return nil, err
	}
	f, err := safetensors.Open(r.Path)
	if err != nil {
		return nil, err
	}
	x, okX := f.Info("images")
	y, okY := f.Info("labels")
	n := r.Count * r.Height * r.Width
	if !okX || !okY || x.DType != safetensors.F32 || y.DType != safetensors.U8 || x.Len() != n || y.Len() != n {
		f.Close()
		return nil, fmt.Errorf("%s is damaged: want %d images and labels of %d×%d, it holds %v and %v", r.Path, r.Count, r.Height, r.Width, x.Shape, y.Shape)
	}
	return &Images{r, f}, nil
}

// Image fills dst with the Height·Width pixels of image i, row by row.
func (m *Images) Image(i int, dst []float32) error {
	n := m.Height * m.Width
	return m.f.ReadFloat32("images", i*n, dst[:n])
}

// Label fills dst with the classes of the pixels of image i.
func (m *Images) Label(i int, dst []uint8) error {
	n := m.Height * m.Width
	return m.f.ReadUint8("labels", i*n, dst[:n])
}

// Close closes the file.
func (m *Images) Close() error { return m.f.Close() }
