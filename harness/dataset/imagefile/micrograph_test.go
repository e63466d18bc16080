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
		{"dm_export.tif", 1, 96, 96, 721.884, 0.2, 0.2, "DigitalMicrograph TIFF tag 65009", ""},
		{"ome_nm.ome.tif", 1, 96, 96, 721.884, 0.2, 0.2, "OME-XML PhysicalSizeX", ""},
		{"ij_stack_oneifd.tif", 5, 96, 96, 721.7015, 0.2, 0.2, "ImageJ TIFF description", ""},
		{"pages_two_sizes.tif", 1, 96, 96, 721.9565, 0, 0, "", "1 of 2 pages were read"},
		{"pages_two_sizes.tif:1", 1, 48, 48, 756.1545, 0, 0, "", ""},
		{"rgb_grey.tif", 1, 96, 96, 89.7945, 0, 0, "", ""},
		{"comp_zstd.tif", 1, 96, 96, 721.884, 0, 0, "", ""},
		{"miniswhite.tif", 1, 96, 96, 255 - 89.7945, 0, 0, "", ""},
		{"kind_bool.tif", 1, 96, 96, 0.5265, 0, 0, "", ""},
		{"one_nan.tif", 1, 96, 96, 721.8047, 0, 0, "", "1 of 9216 pixels are not numbers"},
		{"ncempy.emd", 1, 96, 96, 721.884, 0.2, 0.2, "EMD dimension vectors", ""},
		{"hyperspy_emd_3.emd", 3, 96, 96, 721.884, 0.2, 0.2, "EMD dimension vectors", ""},
		{"two.hspy:images", 1, 96, 96, 721.884, 0, 0, "", ""},
		{"big_units.mat:im", 1, 96, 96, 721.884, 0, 0, "", ""},
		{"map_nul.mrc", 1, 96, 96, 721.884, 0.2, 0.2, "MRC header", ""},
		{"mode0_unsigned_imod.mrc", 1, 96, 96, 119.8969, 0.2, 0.2, "MRC header", ""},
		{"grey.jpg", 1, 96, 96, 89.7792, 0, 0, "", "JPEG keeps"},
		{"mask_inverting_lut.png", 1, 96, 96, 18.9811, 0, 0, "", ""},
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
