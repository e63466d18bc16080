package imagefile

import (
	"archive/zip"
	"bytes"
	"testing"
)

// PantaRhei keeps what it says of an image as a second array, of objects.
func TestPRZ(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, file := range map[string][]byte{
		"data.npy":      npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 6), }", 30),
		"meta_data.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", 8),
	} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	s, _, err := open(b.Bytes(), "")
	if err != nil || s.H != 5 || s.W != 6 {
		t.Errorf("%+v, error %v", s, err)
	}
}
