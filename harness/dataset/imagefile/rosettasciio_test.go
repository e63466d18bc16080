package imagefile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// RosettaSciIO agrees in shape, pixels and calibration on the files that it writes,
// on those of the corpus, and on those of a folder, such as its own tests' data:
//
//	REFOCUS_ROSETTASCIIO=PYTHON REFOCUS_MICROGRAPHS=FOLDER go test -run RosettaSciIO -v .
func TestAgainstRosettaSciIO(t *testing.T) {
	python := os.Getenv("REFOCUS_ROSETTASCIIO")
	peers.Need(t, python != "", "REFOCUS_ROSETTASCIIO names no Python with rosettasciio, h5py, tifffile and mrcfile (PyPI)")
	extensions := []string{".dm3", ".dm4", ".ser", ".tif", ".tiff", ".mrc", ".emd", ".hspy", ".hdf5", ".nxs", ".prz"}
	var paths []string
	for _, folder := range []string{"testdata", os.Getenv("REFOCUS_MICROGRAPHS")} {
		if folder == "" {
			continue
		}
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && slices.Contains(extensions, filepath.Ext(path)) {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(python, "testdata/rosettasciio.py", t.TempDir())
	cmd.Stdin = strings.NewReader(strings.Join(paths, "\n"))
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &failed)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var written []string
	if err := json.Unmarshal(lines[0], &written); err != nil {
		t.Fatal(err)
	}
	paths, lines = append(written, paths...), lines[1:]
	if len(lines) != len(paths) {
		t.Fatalf("%d lines for %d files", len(lines), len(paths))
	}
	// Where the two differ on purpose.
	turned := "RosettaSciIO exchanges the two axes of every EMD file; this one counts rows first"
	differs := map[string]string{
		"i3-mrcfile-i1.mrc":               "bytes are signed in MRC2014, as mrcfile writes them",
		"miniswhite.tif":                  "white is zero in it",
		"ncempy.emd":                      turned,
		"example_image.emd":               turned,
		"example_metadata.emd":            turned,
		"example_signal.emd":              turned,
		"test_hamamatsu_streak_FOCUS.tif": "its axes are a wavelength and a time",
		"test_hamamatsu_streak_SCAN.tif":  "its axes are a wavelength and a time",
	}
	type tally struct{ files, read, compared, calibrated int }
	all := map[string]*tally{}
	for i, path := range paths {
		n := all[filepath.Ext(path)]
		if n == nil {
			n = &tally{}
			all[filepath.Ext(path)] = n
		}
		n.files++
		sum, magnitude, s, err := weighted(path)
		if err != nil {
			if i < len(written) {
				t.Errorf("%v", err)
			}
			t.Logf("not read: %v", err)
			continue
		}
		n.read++
		var signals []struct {
			Shape []int
			Sum   float64
			Scale []float64
			Unit  []string
		}
		if json.Unmarshal(lines[i], &signals) != nil || len(signals) != 1 {
			continue // several, or none that it reads
		}
		if why := differs[filepath.Base(path)]; why != "" {
			t.Logf("%s: not compared: %s", path, why)
			continue
		}
		n.compared++
		r, count := signals[0], 1
		for _, d := range r.Shape {
			count *= d
		}
		// float64 sums of float32 values in another order
		if count != s.N*s.H*s.W || math.Abs(sum-r.Sum) > 1e-9*magnitude {
			t.Errorf("%s: %d×%d×%d pixels of sum %v, RosettaSciIO %v of %v", path, s.N, s.H, s.W, sum, r.Shape, r.Sum)
		}
		pixel := s.Info(0).Pixel
		for k, got := range []float64{pixel.Y, pixel.X} {
			scale, _ := angstroms(r.Unit[k])
			want := plausible(scale * math.Abs(r.Scale[k]))
			if want == 0 {
				continue
			}
			n.calibrated += k
			// scales that RosettaSciIO rounds
			if math.Abs(got-want) > 1e-4*want {
				t.Errorf("%s: a pixel of %v Å (%s), RosettaSciIO %v", path, got, pixel.Origin, want)
			}
		}
	}
	for _, e := range slices.Sorted(maps.Keys(all)) {
		n := *all[e]
		t.Logf("%s: of %d files %d are read; %d agree in shape and pixels, %d of them in calibration", e, n.files, n.read, n.compared, n.calibrated)
	}
}

// weighted reads all images of a file. Its pixels, times 1 to 7 by turns, are
// summed, so that their order counts.
func weighted(path string) (sum, magnitude float64, s *Stack, err error) {
	if s, err = Open(path); err != nil {
		return 0, 0, nil, err
	}
	defer s.Close()
	dst := make([]float32, s.H*s.W)
	for k := range s.N {
		if err := s.At(k, dst); err != nil {
			return 0, 0, nil, fmt.Errorf("%s: %w", path, err)
		}
		for p, v := range dst {
			if v-v != 0 { // not finite
				continue
			}
			x := float64(v) * float64(1+(k*len(dst)+p)%7)
			sum += x
			magnitude += math.Abs(x)
		}
	}
	return sum, magnitude, s, nil
}
