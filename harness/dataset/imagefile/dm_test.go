package imagefile

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/dmfile"
)

func TestDM(t *testing.T) {
	grey := dmfile.Image{Name: "A", Kind: 1, Tag: 2, Sizes: []uint32{3, 2, 2}, Data: []int16{-1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, N: 12, Scales: []float32{0.5, 0.25, 1}, Units: "nm"}
	fft := dmfile.Image{Name: "FFT of A", Kind: 3, Tag: 7, Sizes: []uint32{2, 2}, Data: make([]float64, 4), N: 4, Scales: []float32{0.5, 0.25}, Units: "1/nm"}
	for _, version := range []int{3, 4} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			b := dmfile.Bytes(version, order, grey, fft)
			s, _, err := open(b, "")
			if err != nil {
				t.Fatalf("DM%d, %v: %v", version, order, err)
			}
			r, err := s.Record(1)
			if err != nil {
				t.Fatal(err)
			}
			if s.N != 2 || r.H != 2 || r.W != 3 || r.Pixels[5] != 12 {
				t.Errorf("DM%d, %v: %d images of %d×%d, pixels %v", version, order, s.N, r.H, r.W, r.Pixels)
			}
			if r.Pixel.X != 5 || r.Pixel.Y != 2.5 || r.Detector != "OneView" || r.Array != "A" {
				t.Errorf("DM%d, %v: %+v", version, order, r.Info)
			}
			// 7 to 12, less 1, are 0.5 electrons each on 12.5 Å²
			if want := 0.5 * (9.5 - 1) / 12.5; math.Abs(r.Dose-want) > 1e-12 || !strings.Contains(r.DoseOrigin, "DigitalMicrograph") {
				t.Errorf("DM%d, %v: a dose of %v (%s), want %v", version, order, r.Dose, r.DoseOrigin, want)
			}
			if _, _, err := open(b, "FFT of A"); err == nil || !strings.Contains(err.Error(), "complex") {
				t.Errorf("a Fourier transform: error %v", err)
			}
			if _, _, err := open(b, "B"); err == nil || !strings.Contains(err.Error(), "A, FFT of A") {
				t.Errorf("an absent image: error %v", err)
			}
		}
	}
	if _, _, err := open(dmfile.Bytes(3, binary.LittleEndian, grey, grey), ""); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("two images: error %v", err)
	}
	one := grey
	one.Units = "1/nm"
	if s, _, err := open(dmfile.Bytes(4, binary.LittleEndian, one), ""); err != nil || s.Info(0).Pixel.Known() || !strings.Contains(s.Info(0).Notes[0], "diffraction") {
		t.Errorf("a diffraction pattern: error %v", err)
	}
}
