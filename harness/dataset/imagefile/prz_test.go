package imagefile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
)

// PantaRhei keeps what it says of an image in arrays beside it: of objects, and from
// version 24.03 on of JSON.
func TestPRZ(t *testing.T) {
	write := func(meta string) []byte {
		var text []byte
		for _, c := range meta {
			text = binary.LittleEndian.AppendUint32(text, uint32(c))
		}
		members := map[string][]byte{
			"data.npy":                npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 6), }", 30),
			"meta_data.npy":           npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8),
			"file_format_version.npy": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", 8),
		}
		if meta != "" {
			header := fmt.Sprintf("{'descr': '<U%d', 'fortran_order': False, 'shape': (), }", len(text)/4)
			members["meta_data_json.npy"] = append(npy(header, 0), text...)
		}
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name, file := range members {
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
		return b.Bytes()
	}
	const meta = `[{"device.calib": [{"value": 2e-11, "unit": "m", "pixel_factor": 2.0}, {"value": 0.03, "unit": "nm"}],
		"scan_generator.detector": "pnADF", "comment": "größer"}]`
	s, _, err := open(write(meta), "")
	if err != nil || s.Format != "PRZ" || s.H != 5 || s.W != 6 {
		t.Fatalf("%+v, error %v", s, err)
	}
	f := s.Info(0)
	if math.Abs(f.Pixel.X-0.4) > 1e-9 || math.Abs(f.Pixel.Y-0.3) > 1e-9 || f.Pixel.Origin != "PantaRhei calibration" || f.Detector != "pnADF" {
		t.Errorf("%+v", f)
	}
	s, _, err = open(write(""), "")
	if err != nil || s.Info(0).Pixel.Known() || !strings.Contains(strings.Join(s.Info(0).Notes, ""), "pickle") {
		t.Errorf("before version 24.03: %+v, error %v", s, err)
	}
	for _, damaged := range []string{"[", "{}", "[]", `[{"device.calib": 5}]`, `[{"device.calib": [{}]}]`} {
		if s, _, err := open(write(damaged), ""); err != nil || s.Info(0).Pixel.Known() {
			t.Errorf("%s: %+v, error %v", damaged, s, err)
		}
	}
}
