package imagefile

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// The text that Velox keeps beside an image, with the properties that a camera has.
func TestVelox(t *testing.T) {
	text := func(unit string) string {
		return `{"BinaryResult": {"Detector": "BM-Ceta", "PixelSize": {"width": "2e-11", "height": "4e-11"}, "PixelUnitX": "` + unit + `", "PixelUnitY": "` + unit + `"},
			"CustomProperties": {"Detectors[BM-Ceta].CountsToElectrons": {"type": "float", "value": "0.5"},
			"Detectors[BM-Ceta].PixelValueToCameraCounts": {"type": "long", "value": "3"}, "StemMagnification": {"type": "bool", "value": "0"}}}`
	}
	read := func(text string) Info {
		var v velox
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		var f Info
		v.info(&f)
		f.count([]float32{1, 2, 9, 1e6}, []bool{false, false, false, true})
		return f
	}
	f := read(text("m"))
	if f.Detector != "BM-Ceta" || math.Abs(f.Pixel.X-0.2) > 1e-9 || math.Abs(f.Pixel.Y-0.4) > 1e-9 {
		t.Errorf("%+v", f)
	}
	if want := 0.5 * 3 * 4 / (0.2 * 0.4); math.Abs(f.Dose-want) > 1e-9 { // a mean of 4
		t.Errorf("a dose of %v e/Å², want %v", f.Dose, want)
	}
	if f := read(text("1/m")); f.Pixel.Known() || f.Dose != 0 || !strings.Contains(strings.Join(f.Notes, ""), "diffraction") {
		t.Errorf("a Fourier transform: %+v", f)
	}
}
