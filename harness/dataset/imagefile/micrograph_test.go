package imagefile

import (
	"math"
	"strings"
	"testing"
)

// What the files of microscopes say: two discs of 96×96 pixels, kept as programs
// of the field do.
func TestMicrographs(t *testing.T) {
	for _, tt := range []struct {
		path    string
		n, h, w int
		mean    float64 // of the first image
		x, y    float64 // Å
		origin  string
		note    string
	}{
		{"own.dm3", 1, 96, 96, 721.884, 0.2, 0.2, "DigitalMicrograph calibration", ""},
		{"own_1.ser", 1, 96, 96, 721.884, 0.2, 0.2, "SER header", ""},
	} {
		t.Run(tt.path, func(t *testing.T) {
			s, err := Open("testdata/" + tt.path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			r, err := s.Record(0)
			if err != nil {
				t.Fatal(err)
			}
			if s.N != tt.n || r.H != tt.h || r.W != tt.w {
				t.Errorf("%d images of %d×%d, want %d of %d×%d", s.N, r.H, r.W, tt.n, tt.h, tt.w)
			}
			var sum float64
			for p, v := range r.Pixels {
				if r.Bad == nil || !r.Bad[p] {
					sum += float64(v)
				}
			}
			if mean := sum / float64(len(r.Pixels)); math.Abs(mean-tt.mean) > 1e-3 {
				t.Errorf("the mean is %.4f, want %.4f", mean, tt.mean)
			}
			// float32 scales are good to 1e-7
			if math.Abs(r.Pixel.X-tt.x) > 1e-6*tt.x || math.Abs(r.Pixel.Y-tt.y) > 1e-6*tt.y || r.Pixel.Origin != tt.origin {
				t.Errorf("pixel %+v, want %g × %g Å from %q", r.Pixel, tt.x, tt.y, tt.origin)
			}
			if notes := strings.Join(r.Notes, "; "); (tt.note == "") != (notes == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
		})
	}
}
