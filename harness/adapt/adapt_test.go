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
	"github.com/refocus-em/refocus/harness/study"
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
	return simulated(t, dir, n, simulation(), []hrtem.Conditions{c}, gain)
}

// simulated is micrographs of any specimen, under one of the conditions after another.
func simulated(t *testing.T, dir string, n int, config hrtem.Config, c []hrtem.Conditions, gain float32) (images, labels string) {
	t.Helper()
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
		if _, err := sim.Counts(context.Background(), sp, c[i%len(c)], random.Stream(99, "hidden", uint64(i)), one); err != nil {
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

// Other specimens: particles without a support give no defocus; of another metal, the
// right one, also with hot pixels and a gradient of the illumination, which are found; and
// images of two defoci are not taken for one session.
func TestSpecimens(t *testing.T) {
	ctx := context.Background()
	at := func(defocus ...float64) (c []hrtem.Conditions) {
		for _, d := range defocus {
			c = append(c, hrtem.Conditions{Defocus: d, DefocusStd: 15, Dose: 400})
		}
		return c
	}
	bare := simulation()
	bare.Carbon = [2]float64{}
	silver := simulation().Of("fcc_Ag", nil)
	for name, x := range map[string]struct {
		config     hrtem.Config
		conditions []hrtem.Conditions
		spoil      bool
		defocus    float64 // 0: cannot be told
		warning    string
	}{
		"no support": {bare, at(-100), false, 0, ""},
		"silver":     {silver, at(150), true, 150, ""},
		"two defoci": {simulation(), at(-150, -60), false, -110, "different defoci"},
		"both sides": {simulation(), at(-100, 150), false, 150, "different defoci"},
	} {
		dir := t.TempDir()
		images, _ := simulated(t, dir, 10, x.config, x.conditions, 1)
		if x.spoil {
			st, err := imagefile.Open(images)
			if err != nil {
				t.Fatal(err)
			}
			all := make([]float32, 0, st.N*st.H*st.W)
			for i := range st.N {
				one := make([]float32, st.H*st.W)
				if err := st.At(i, one); err != nil {
					t.Fatal(err)
				}
				for k := range one {
					one[k] *= 0.9 + 0.2*float32(k%st.W)/float32(st.W)
				}
				one[700+i], one[2000-i] = 65535, 60000
				all = append(all, one...)
			}
			shape := []int{st.N, st.H, st.W}
			st.Close()
			var b bytes.Buffer
			if err := imagefile.WriteNPY(&b, shape, all); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(images, b.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		m, err := Open(model(t, dir, testnet.Random(t, 2), nil), dir, predict.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.Estimate(ctx, []string{images}, Given{PixelSize: pixel}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(e.Lines(), "\n")
		if (e.Defocus != nil) != (x.defocus != 0) {
			t.Errorf("%s: %s", name, text)
		} else if e.Defocus != nil && x.warning == "" && (math.Abs(e.Defocus.Value-x.defocus) > 30 || e.OtherSide != nil) {
			t.Errorf("%s: %s", name, text)
		}
		if got := strings.Join(e.Warnings, "; "); x.warning == "" && got != "" || !strings.Contains(got, x.warning) {
			t.Errorf("%s: warnings %q, want %q", name, got, x.warning)
		}
		if x.spoil && !strings.Contains(text, "2 outlying pixels") {
			t.Errorf("%s: no word of the hot pixels: %s", name, text)
		}
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

// The spec of an adaptation is one that studies are read from, at the pixel sizes that
// can be simulated, for networks whose outputs are background and particle and for
// others; and what it lacks is asked for by the flag.
func TestSpec(t *testing.T) {
	three, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 3})
	if err != nil {
		t.Fatal(err)
	}
	three.Initialize(1, 1)
	defocus := -80.0
	for _, x := range []struct {
		network *nn.Graph
		trained *hrtem.Conditions
		given   Given
		want    []string // in the spec
		err     string
	}{
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.4, Dose: 123.4, Defocus: &defocus}, []string{`weights = "kept"`, `loss            = "cross-entropy"`, "output = 128", "defocus           = [-90, -70]", "dose              = [123]"}, ""},
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.1, Dose: 100, Defocus: &defocus}, []string{"output = 128", "cell = 51.2"}, ""}, // resampled to the model's
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.47, Dose: 100, Defocus: &defocus}, []string{"output = 128", "cell = 60.16"}, ""},
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.6, Dose: 100, Defocus: &defocus}, nil, "above 0.5 Å the lattice is lost"},
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.4, Dose: 100, Defocus: &defocus, Crystal: "dc_C", Energy: 200e3}, []string{`"dc_C"`, "dc_C = 1", "beam_energy = 200000", "max_faults = 0"}, ""},
		{three, nil, Given{PixelSize: 0.4, Dose: 100, Defocus: &defocus}, []string{`weights = "new-head"`, `classes = ["background", "nanoparticle"]`}, ""},
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.4, Dose: 100}, nil, "--defocus"},
		{testnet.Random(t, 2), nil, Given{PixelSize: 0.4, Defocus: &defocus}, nil, "--dose"},
		{testnet.Random(t, 2), nil, Given{Dose: 100, Defocus: &defocus}, nil, "--pixel-size"},
	} {
		dir := t.TempDir()
		m, err := Open(model(t, dir, x.network, x.trained), dir, predict.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e := &Estimate{DefocusSign: -1, Energy: Value{Value: 300e3}}
		if p := x.given.PixelSize; p > 0 {
			e.PixelSize = &Value{Value: p}
		}
		if d := x.given.Dose; d > 0 {
			e.Dose = &Value{Value: d}
		}
		if d := x.given.Defocus; d != nil {
			e.Defocus = &Value{Value: *d}
		}
		spec, err := m.Spec(e, x.given, Training{}, studyName("my session \"1\"\n"), "a\"b\\c\n.onnx")
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) {
				t.Errorf("%+v: want %q, got %v", x.given, x.err, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := study.Parse("adapt.toml", []byte(spec))
		if err != nil {
			t.Errorf("%v in\n%s", err, spec)
			continue
		}
		s, err := f.Study("")
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != "adapt-my-session--1" || s.Network.ONNX != "a\"b\\c\n.onnx" {
			t.Errorf("name %q, network %q", s.Name, s.Network.ONNX)
		}
		for _, w := range x.want {
			if !strings.Contains(spec, w) {
				t.Errorf("%+v: lacks %q:\n%s", x.given, w, spec)
			}
		}
	}
}

// Both sides of focus are simulated where the side is not known, the estimate's error
// around it where it is.
func TestDefoci(t *testing.T) {
	for _, x := range []struct {
		e    Estimate
		want [2]float64
	}{
		{Estimate{Defocus: &Value{Value: -101.4, Error: 3}}, [2]float64{-111, -91}},
		{Estimate{Defocus: &Value{Value: 150, Error: 18}}, [2]float64{132, 168}},
		{Estimate{Defocus: &Value{Value: 150, Error: 12}, OtherSide: &Value{Value: -98.6}}, [2]float64{150, -99}},
		{Estimate{Defocus: &Value{Value: 22, Error: 12}, OtherSide: &Value{Value: 25}}, [2]float64{10, 34}},
	} {
		if got := x.e.defoci(); got != x.want {
			t.Errorf("%v, want %v", got, x.want)
		}
	}
}

// What is given and impossible is refused by its flag before anything is read.
func TestGiven(t *testing.T) {
	dir := t.TempDir()
	m, err := Open(model(t, dir, testnet.Random(t, 2), nil), dir, predict.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	far := 1e9
	for want, g := range map[string]Given{
		"--crystal":     {Crystal: "unobtainium"},
		"--beam-energy": {Energy: 5},
		"--pixel-size":  {PixelSize: 1e-9},
		"--dose":        {Dose: 1e9},
		"--defocus":     {Defocus: &far},
	} {
		if _, err := m.Estimate(context.Background(), []string{"nothing.tif"}, g, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := m.Estimate(context.Background(), []string{"nothing.tif"}, Given{}, nil); err == nil || !strings.Contains(err.Error(), "nothing.tif") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Open("nothing.onnx", dir, predict.LoadOptions{}); err == nil || !strings.Contains(err.Error(), "nothing.onnx is no file") {
		t.Errorf("a model that is not there: %v", err)
	}
}
