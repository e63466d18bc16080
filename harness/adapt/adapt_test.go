package adapt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
	"github.com/refocus-em/refocus/harness/trained"
)

const pixel = 0.4 // Å, of everything here

// simulation is that of the quick profiles.
func simulation() hrtem.Config {
	c := hrtem.Reduced("w_CdSe")
	c.Crop, c.Phonons = 64, 2
	return c
}

// micrographs writes counted electrons, times a gain, and their labels as stacks.
func micrographs(t *testing.T, dir string, n int, c hrtem.Conditions, gain float32) (images, labels string) {
	t.Helper()
	config := simulation()
	sim, err := hrtem.NewSimulator(config)
	if err != nil {
		t.Fatal(err)
	}
	size := config.Crop
	x, y := make([]float32, n*size*size), make([]float32, n*size*size)
	for i := range n {
		sp, err := sim.Specimen(context.Background(), 99, "hidden", i)
		if err != nil {
			t.Fatal(err)
		}
		one := x[i*size*size : (i+1)*size*size]
		if _, err := sim.Counts(context.Background(), sp, c, random.Stream(99, "hidden", uint64(i)), one); err != nil {
			t.Fatal(err)
		}
		for k := range one {
			one[k] *= gain
			y[i*size*size+k] = float32(sp.Label[k])
		}
	}
	write := func(name string, v []float32) string {
		var b bytes.Buffer
		if err := imagefile.WriteNPY(&b, []int{n, size, size}, v); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("images.npy", x), write("labels.npy", y)
}

// model writes a network that says of itself to have been trained at conditions.
func model(t *testing.T, dir string, g *nn.Graph, c *hrtem.Conditions) string {
	t.Helper()
	md := map[string]string{"refocus.pixel_size_angstrom": fmt.Sprint(pixel), "refocus.classes": "background, nanoparticle", "refocus.normalization": "standardize"}
	if c != nil {
		text, err := json.Marshal(dataset.Simulation{Config: simulation(), Conditions: *c})
		if err != nil {
			t.Fatal(err)
		}
		md[trained.SimulationKey] = string(text)
	}
	file, err := onnx.Marshal(g, onnx.MarshalOptions{Metadata: md})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(path, file, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// What a model makes of hidden conditions, each side of focus: pixels that count
// electrons tell the dose, those with a gain do not, and a model trained on the other
// side is warned of.
func TestEstimate(t *testing.T) {
	ctx := context.Background()
	for _, x := range []struct {
		defocus, dose float64
		gain          float32
		told          bool // the dose
		warn          []string
	}{
		{150, 400, 1, true, []string{"the defocus is +1"}},
		{-100, 400, 3, true, nil}, // every gray value a multiple of 3
		{-100, 800, 1, true, []string{"e⁻/Å², the model was trained at 400"}},
		{150, 400, 0.37, false, []string{"the defocus is +1"}},
	} {
		dir := t.TempDir()
		images, _ := micrographs(t, dir, 8, hrtem.Conditions{Defocus: x.defocus, DefocusStd: 15, Dose: x.dose}, x.gain)
		m, err := Open(model(t, dir, testnet.Random(t, 2), &hrtem.Conditions{Defocus: -100, DefocusStd: 15, Dose: 400}), dir, predict.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.Estimate(ctx, []string{images}, Given{PixelSize: pixel}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Images) != 8 || e.PixelSize == nil || e.PixelSize.Value != pixel || e.PixelSize.From != "--pixel-size" {
			t.Errorf("%+v: pixel size %+v of %d images", x, e.PixelSize, len(e.Images))
		}
		if e.Defocus == nil || e.OtherSide != nil || math.Abs(e.Defocus.Value-x.defocus) > 30 || e.Defocus.Error <= 0 {
			t.Errorf("%+v: defocus %+v or %+v", x, e.Defocus, e.OtherSide)
		}
		switch {
		case (e.Dose != nil) != x.told:
			t.Errorf("%+v: dose %+v", x, e.Dose)
		case x.told && math.Abs(e.Dose.Value/x.dose-1) > 0.02: // 8·4096 pixels of 64 electrons and more
			t.Errorf("%+v: dose %v", x, e.Dose.Value)
		}
		if len(e.Warnings) != len(x.warn) {
			t.Errorf("%+v: warnings %q", x, e.Warnings)
		}
		for i, w := range x.warn {
			if i < len(e.Warnings) && !strings.Contains(e.Warnings[i], w) {
				t.Errorf("%+v: warning %q lacks %q", x, e.Warnings[i], w)
			}
		}
		t.Logf("%s", strings.Join(e.Lines(), "\n"))
	}
}

// What is not known stays unknown, and is said; what the user gives replaces it.
func TestUnknown(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	flat := make([]float32, 64*64)
	r := random.Stream(1, "flat")
	for i := range flat {
		flat[i] = float32(1000 + 30*r.NormFloat64())
	}
	var b bytes.Buffer
	if err := imagefile.WriteNPY(&b, []int{64, 64}, flat); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "noise.npy")
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	m, err := Open(model(t, dir, testnet.Random(t, 2), nil), dir, predict.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defocus := -75.0
	for _, x := range []struct {
		given Given
		want  []string
	}{
		{Given{}, []string{"pixel size: unknown", "dose: cannot be told", "defocus: cannot be told", "--pixel-size gives it", "does not say what it was trained on"}},
		{Given{PixelSize: 0.2}, []string{"pixel size: 0.2 Å", "dose: cannot be told", "defocus: cannot be told", "no rings", "--dose gives it"}},
		{Given{PixelSize: 0.2, Dose: 250, Defocus: &defocus}, []string{"dose: 250 e⁻/Å² (--dose)", "defocus: −7.5 nm, underfocus (--defocus"}},
	} {
		e, err := m.Estimate(ctx, []string{path}, x.given, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(e.Lines(), "\n")
		for _, w := range x.want {
			if !strings.Contains(text, w) {
				t.Errorf("%+v: lacks %q:\n%s", x.given, w, text)
			}
		}
	}
}
