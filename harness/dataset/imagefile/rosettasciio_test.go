package imagefile

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// RosettaSciIO agrees in shape, pixels and calibration on the files of a
// folder, such as its own tests' data:
//
//	REFOCUS_ROSETTASCIIO=PYTHON REFOCUS_MICROGRAPHS=FOLDER go test -run RosettaSciIO -v .
func TestAgainstRosettaSciIO(t *testing.T) {
	python, folder := os.Getenv("REFOCUS_ROSETTASCIIO"), os.Getenv("REFOCUS_MICROGRAPHS")
	if python == "" || folder == "" {
		t.Skip("REFOCUS_ROSETTASCIIO names no Python with rosettasciio, or REFOCUS_MICROGRAPHS no folder of files")
	}
	var paths []string
	filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && slices.Contains([]string{".dm3", ".dm4", ".ser", ".tif", ".mrc"}, filepath.Ext(path)) {
			paths = append(paths, path)
		}
		return nil
	})
	out, err := exec.Command(python, append([]string{"testdata/rosettasciio.py"}, paths...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if len(lines) != len(paths) {
		t.Fatalf("%d lines for %d files", len(lines), len(paths))
	}
	compared := map[string]int{}
	for i, path := range paths {
		var signals []struct {
			Shape []int
			Sum   float64
			Scale []float64
			Unit  []string
		}
		if err := json.Unmarshal(lines[i], &signals); err != nil {
			continue // NaN is not JSON
		}
		s, err := Open(path)
		if err != nil {
			t.Logf("not read: %v", err)
			continue
		}
		var sum, magnitude float64
		dst := make([]float32, s.H*s.W)
		for k := range s.N {
			if err := s.At(k, dst); err != nil {
				t.Logf("not read: %v", err)
				break
			}
			for p, v := range dst {
				x := float64(v) * float64(1+(k*len(dst)+p)%7)
				sum += x
				magnitude += math.Abs(x)
			}
		}
		pixel := s.Info(0).Pixel
		s.Close()
		if len(signals) != 1 {
			continue // several, or none that it reads
		}
		r, n := signals[0], 1
		for _, d := range r.Shape {
			n *= d
		}
		compared[filepath.Ext(path)]++
		// float64 sums of float32 values in another order
		if n != s.N*s.H*s.W || math.Abs(sum-r.Sum) > 1e-9*magnitude {
			t.Errorf("%s: %d×%d×%d pixels of sum %v, RosettaSciIO %v of %v", path, s.N, s.H, s.W, sum, r.Shape, r.Sum)
		}
		for k, got := range []float64{pixel.Y, pixel.X} {
			scale, _ := angstroms(r.Unit[k])
			// scales that RosettaSciIO rounds
			if want := plausible(scale * math.Abs(r.Scale[k])); pixel.Known() && want > 0 && math.Abs(got-want) > 1e-4*want {
				t.Errorf("%s: a pixel of %v Å, RosettaSciIO %v", path, got, want)
			}
		}
	}
	t.Logf("compared: %v", compared)
}
