package imagefile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The EMI file beside a SER file opens it and says how it was taken.
func TestEMI(t *testing.T) {
	ser, err := os.ReadFile("testdata/own_1.ser")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	object := func(mode, detector string) string {
		return "JK\x00 and pixels <ObjectInfo><AcquireInfo>" + detector + "</AcquireInfo><ExperimentalDescription><Root>" +
			"<Data><Label>Mode</Label><Value> " + mode + "</Value><Unit></Unit></Data></Root></ExperimentalDescription></ObjectInfo> more"
	}
	emi := filepath.Join(dir, "a.emi")
	write("a.emi", "")
	if _, err := Open(emi); err == nil || !strings.Contains(err.Error(), "a_1.ser") {
		t.Errorf("without SER: error %v", err)
	}
	write("a_1.ser", string(ser))
	for _, tt := range []struct {
		mode, detector, want string
		known                bool
	}{
		{"TEM uP SA Zoom Image", "<CameraNamePath>BM-UltraScan</CameraNamePath>", "BM-UltraScan", true},
		{"TEM uP SA Zoom Diffraction", "<CameraNamePath>BM-UltraScan</CameraNamePath>", "BM-UltraScan", false},
		{"STEM nP SA Zoom Diffraction", "<DetectorPath>HAADF</DetectorPath>", "HAADF", true},
	} {
		write("a.emi", object(tt.mode, tt.detector))
		s, err := Open(emi)
		if err != nil {
			t.Fatal(err)
		}
		f := s.Info(0)
		s.Close()
		if f.Detector != tt.want || f.Pixel.Known() != tt.known || (len(f.Notes) == 0) != tt.known {
			t.Errorf("%s: %+v", tt.mode, f)
		}
	}
	write("a_2.ser", string(ser))
	if _, err := Open(emi); err == nil || !strings.Contains(err.Error(), "a_1.ser, a_2.ser") {
		t.Errorf("two SER files: error %v", err)
	}
	s, err := Open(filepath.Join(dir, "a_2.ser"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f := s.Info(0); f.Detector != "" { // the EMI file describes one
		t.Errorf("%+v", f)
	}
}
