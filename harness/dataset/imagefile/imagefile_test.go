package imagefile

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// want is pixel (y, x) of image i in a file of testdata/make.py of a kind.
func want(kind byte, i, y, x int) float32 {
	v := float32((37*i + 5*y + 3*x) % 120)
	above := v > 60
	switch kind {
	case 'i':
		return v - 60
	case 'f':
		return (v - 60) / 4
	case 'b':
		return map[bool]float32{true: 1}[above]
	case 'B':
		return map[bool]float32{true: 255}[above]
	}
	return v
}

// checkFile compares a file with what its name says.
func checkFile(t *testing.T, path string) {
	t.Helper()
	base := filepath.Base(path)
	s, err := Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	if s.N != int(base[1]-'0') || s.H != 20 || s.W != 18 {
		t.Errorf("%s: %d images of %d×%d", base, s.N, s.H, s.W)
		return
	}
	dst := make([]float32, 20*18)
	for _, i := range []int{s.N - 1, 0, s.N / 2} { // not in order, to catch stale buffers
		if err := s.At(i, dst); err != nil {
			t.Errorf("%s: %v", base, err)
			return
		}
		for p, got := range dst {
			if w := want(base[0], i, p/18, p%18); got != w {
				t.Errorf("%s: image %d, pixel (%d, %d) is %v, want %v", base, i, p/18, p%18, got, w)
				return
			}
		}
	}
	wantSize := 0.0
	switch {
	case strings.HasSuffix(base, ".mrc"):
		wantSize = 0.25
	case strings.Contains(base, "imagej"), strings.Contains(base, "centimetre"), strings.Contains(base, "ncem"), strings.Contains(base, "velox"):
		wantSize = 0.2
	}
	if p := s.Info(0).Pixel; math.Abs(p.X-wantSize) > 1e-7 || math.Abs(p.Y-wantSize) > 1e-7 || p.Known() != (p.Origin != "") {
		t.Errorf("%s: pixel size %+v, want %v Å", base, p, wantSize)
	}
}

// encoded lists the files of a folder whose names say what they hold.
func encoded(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "[uifbB][13]-*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files in %s (%v)", dir, err)
	}
	return paths
}

// The corpus is a selection of what make.py writes, so that every reader is
// tested on a machine with only Go.
func TestCorpus(t *testing.T) {
	for _, p := range encoded(t, "testdata") {
		checkFile(t, p)
	}
}

func TestAgainstTheirLibraries(t *testing.T) {
	python := peers.Python(t, "numpy", "scipy", "tifffile", "h5py", "cv2")
	dir := t.TempDir()
	if out, err := exec.Command(python, "testdata/make.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, p := range encoded(t, dir) {
		checkFile(t, p)
	}
	// Indexes of 160000 chunks, in pages and trees of several levels.
	for _, name := range []string{"paged", "grows-paged", "deep-tree"} {
		s, err := Open(filepath.Join(dir, "many-chunks-"+name+".h5"))
		if err != nil {
			t.Error(err)
			continue
		}
		dst := make([]float32, 400*400)
		err = s.At(0, dst)
		s.Close()
		wrong := -1
		for i, v := range dst {
			if v != float32(i/400+i%400) {
				wrong = i
			}
		}
		if err != nil || wrong >= 0 {
			t.Errorf("%s: pixel %d is wrong (%v)", name, wrong, err)
		}
	}
}

func TestChoice(t *testing.T) {
	for _, tt := range []struct{ path, errorHas string }{
		{"testdata/two.npz", "images, labels"},
		{"testdata/two.npz:images", ""},
		{"testdata/two.npz:labels", ""},
		{"testdata/two.npz:label", `no array "label", there are: images, labels`},
		{"testdata/two.h5", "/images, /sub/labels"},
		{"testdata/two.h5:images", ""},
		{"testdata/two.h5:/sub/labels", ""},
		{"testdata/two.h5:sub", "no array"},
		{"testdata/two.mat", "fft, images, labels, rgb"},
		{"testdata/two.mat:images", ""},
		{"testdata/two.mat:labels", ""},
		{"testdata/two.mat:fft", "complex"},
		{"testdata/two.mat:rgb", "channels"},
		{"testdata/sparse.h5", "1 of its 3 chunks"},
		{"testdata/colour.png", "coloured"},
		{"testdata/make.py", "not a file of a known format"},
		{"testdata", "several arrays"}, // of one of the files in the folder
		{"/dev/null", "not a regular file"},
		{"testdata/absent.npy", "no such file"},
	} {
		s, err := Open(tt.path)
		if err == nil {
			err = s.At(0, make([]float32, s.H*s.W))
			s.Close()
		}
		if tt.errorHas == "" && err != nil || tt.errorHas != "" && (err == nil || !strings.Contains(err.Error(), tt.errorHas)) {
			t.Errorf("%s: error %v, want %q", tt.path, err, tt.errorHas)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for _, tt := range [][3]string{
		{"a.npz:images", "a.npz", "images"},
		{"/x/b.EMD:/data/s/data", "/x/b.EMD", "/data/s/data"},
		{`C:\x\b.tif`, `C:\x\b.tif`, ""},
		{"odd:name.npy", "odd:name.npy", ""},
		{"a.h5", "a.h5", ""},
	} {
		if f, a := SplitPath(tt[0]); f != tt[1] || a != tt[2] {
			t.Errorf("SplitPath(%q) = %q, %q", tt[0], f, a)
		}
	}
}

func TestAtChecksItsArguments(t *testing.T) {
	s, err := Open("testdata/two.npz:images")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, i := range []int{-1, 3} {
		if s.At(i, make([]float32, 360)) == nil {
			t.Errorf("image %d of 3", i)
		}
	}
	if s.At(0, make([]float32, 359)) == nil {
		t.Error("a buffer that is too short")
	}
}

// seeds are the fuzz corpus.
func seeds(t testing.TB) map[string][]byte {
	paths, err := filepath.Glob("testdata/*.*")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for _, p := range paths {
		if filepath.Ext(p) == ".py" {
			continue
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		m[filepath.Base(p)] = b
	}
	return m
}
