package imagefile_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
)

// Our own reader, which is tested with other programs' files, reads the pages
// back. Package predict has tifffile read files too.
func TestWriteTIFF(t *testing.T) {
	const h, w = 3, 5
	for n := 1; n <= 3; n++ {
		for _, size := range []float64{0, 0.2} {
			var pages [][]float32
			for i := range n {
				p := make([]float32, h*w)
				for j := range p {
					p[j] = float32(i) - float32(j)/7
				}
				pages = append(pages, p)
			}
			var b bytes.Buffer
			if err := imagefile.WriteTIFF(&b, h, w, size, pages...); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "a.tif")
			if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
			s, err := imagefile.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if s.N != n || s.H != h || s.W != w || s.Info(0).Pixel.X != size {
				t.Errorf("read %d images of %d×%d with %g Å, want %d of %d×%d with %g Å", s.N, s.H, s.W, s.Info(0).Pixel.X, n, h, w, size)
			}
			for i, p := range pages {
				got := make([]float32, h*w)
				if err := s.At(i, got); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(got) != fmt.Sprint(p) {
					t.Errorf("page %d is %v, want %v", i, got, p)
				}
			}
			s.Close()
		}
	}
	if err := imagefile.WriteTIFF(&bytes.Buffer{}, h, w, 0, make([]float32, h)); err == nil {
		t.Error("a page that is too short was written")
	}
}
