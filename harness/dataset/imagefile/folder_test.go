package imagefile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder copies files of testdata under other names.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range files {
		b, err := os.ReadFile(filepath.Join("testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFolder(t *testing.T) {
	dir := folder(t, map[string]string{"b.tif": "u3-imagej.tif", "a.png": "u1-grey.png", ".hidden": "make.py"})
	if err := os.Mkdir(filepath.Join(dir, "aa"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.N != 4 || s.H != 20 || s.W != 18 {
		t.Fatalf("%d images of %d×%d", s.N, s.H, s.W)
	}
	dst := make([]float32, 20*18)
	for _, i := range []int{0, 3, 1, 0, 2} {
		if err := s.At(i, dst); err != nil {
			t.Fatal(err)
		}
		image, file := max(i-1, 0), "b.tif"
		if i == 0 {
			file = "a.png"
		}
		for p, v := range dst {
			if w := want('u', image, p/18, p%18); v != w {
				t.Fatalf("image %d, pixel %d is %v, want %v", i, p, v, w)
			}
		}
		if got := s.Name(i); filepath.Base(got) != file {
			t.Errorf("image %d is of %s, want %s", i, got, file)
		}
	}
	for name, tt := range map[string]struct {
		files    map[string]string
		errorHas string
	}{
		"empty":       {nil, "no files"},
		"another one": {map[string]string{"a.png": "u1-grey.png", "notes.txt": "make.py"}, "notes.txt"},
	} {
		if _, err := Open(folder(t, tt.files)); err == nil || !strings.Contains(err.Error(), tt.errorHas) {
			t.Errorf("%s: error %v, want %q", name, err, tt.errorHas)
		}
	}
	dir = folder(t, map[string]string{"a.png": "u1-grey.png"})
	if err := os.WriteFile(filepath.Join(dir, "b.npy"), npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }", 4), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "one size") {
		t.Errorf("images of two sizes: %v", err)
	}
}
