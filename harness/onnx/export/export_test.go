package export

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
	"github.com/refocus-em/refocus/plugins/cpu"
)

func model(t testing.TB) Model {
	return Model{
		Graph:          testnet.Trained(t),
		Title:          "Discs in noise, −5 nm defocus",
		Description:    "A small network that has learnt to find discs: \"quotes\", commas, Å.",
		Study:          "test",
		SpecDigest:     strings.Repeat("a", 64),
		RunDigest:      strings.Repeat("b", 64),
		Domain:         "defocus=-5",
		PixelSize:      0.2,
		ValidationLoss: 0.0123,
		ClassNames:     []string{"background", "nanoparticle"},
		License:        "CC-BY-4.0",
		Authors:        []string{"The refocus developers"},
		Maintainers:    []string{"somebody"},
		Cite:           []Citation{{"Rangel DaCosta, Oill, Scott: Strategies for effective transfer learning for HRTEM analysis with neural networks", "10.69761/kjte5358", ""}},
		Finished:       time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
		Version:        "test",
	}
}

func predict(ctx context.Context, g *nn.Graph, x Tensor) (Tensor, error) {
	s, err := cpu.New("test").Open(ctx, g, backend.Options{})
	if err != nil {
		return Tensor{}, err
	}
	defer s.Close()
	y, err := s.Predict(ctx, backend.Tensor{Shape: x.Shape, F32: x.Data})
	return Tensor{y.Shape, y.F32}, err
}

// without runs no consumers.
var without = Options{Bare: true, Predict: predict, Consumers: []consumer.Consumer{}}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func certificate(t *testing.T, path string) Certificate {
	t.Helper()
	var c Certificate
	if err := json.Unmarshal(read(t, path+".certificate.json"), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// The same model gives the same bytes, and the file says what is known.
func TestWrite(t *testing.T) {
	ctx := context.Background()
	m := model(t)
	var bytes [2][]byte
	for i := range bytes {
		path := filepath.Join(t.TempDir(), "model.onnx")
		files, err := Write(ctx, path, m, without)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || files[0].Path != path || files[0].CertificatePath != path+".certificate.json" || files[0].Certificate.Certified {
			t.Errorf("wrote %+v", files)
		}
		bytes[i] = read(t, path)
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 {
			t.Errorf("left %v", entries)
		}
		c := certificate(t, path)
		if c.Parameters != m.Graph.Count("") || c.BatchNormalizations != 21 || c.Opset != 13 || c.IRVersion != 7 || c.Bytes != int64(len(bytes[i])) {
			t.Errorf("certificate %+v", c)
		}
		for _, k := range []string{"structure", "version", "metadata", "reload", "totals", "shapes", "backend"} {
			if !slices.ContainsFunc(c.Checks, func(x Check) bool { return x.Name == k && x.Passed }) {
				t.Errorf("check %q is missing or failed", k)
			}
		}
	}
	if string(bytes[0]) != string(bytes[1]) {
		t.Error("two exports differ")
	}
	g, err := onnx.Unmarshal(bytes[0])
	if err != nil {
		t.Fatal(err)
	}
	want := m.Graph.Clone()
	want.Multiple = 16
	if !reflect.DeepEqual(g, want) {
		t.Error("the network changed")
	}
	info, err := onnx.Inspect(bytes[0])
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"refocus.domain": "defocus=-5", "refocus.pixel_size_angstrom": "0.2", "refocus.validation_loss": "0.0123",
		"refocus.size_multiple": "16", "refocus.halo": "160", "refocus.classes": "background, nanoparticle",
		"refocus.normalization": "standardize", "refocus.run_digest": m.RunDigest, "refocus.weights_digest": WeightsDigest(m.Graph), "license": "CC-BY-4.0",
	} {
		if info.Metadata[k] != want {
			t.Errorf("metadata %q = %q, want %q", k, info.Metadata[k], want)
		}
	}
	if !strings.Contains(info.Metadata["citation"], "10.69761/kjte5358") {
		t.Errorf("citation %q", info.Metadata["citation"])
	}
}

// An export that does not certify leaves nothing behind.
func TestWriteRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.onnx")
	o := without
	calls := 0
	o.Predict = func(ctx context.Context, g *nn.Graph, x Tensor) (Tensor, error) {
		y, err := predict(ctx, g, x)
		if calls++; calls > 4 { // the file's network, after the one in memory
			y.Data[7] += 0.5
		}
		return y, err
	}
	_, err := Write(context.Background(), path, model(t), o)
	if err == nil || !strings.Contains(err.Error(), "does not certify") || !strings.Contains(err.Error(), "differs by 0.5") {
		t.Errorf("error %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
	m := model(t)
	m.ClassNames = m.ClassNames[:1]
	if _, err := Write(context.Background(), path, m, without); err == nil {
		t.Error("accepted one class name for two classes")
	}
	for _, o := range []Options{{Format: "tar", Predict: predict}, {Precision: "int8", Predict: predict}, {}} {
		if _, err := Write(context.Background(), path, model(t), o); err == nil {
			t.Errorf("accepted %+v", o)
		}
	}
}

// A consumer that is not installed is recorded, and is no obstacle.
func TestMissingConsumer(t *testing.T) {
	t.Setenv("PATH", "")
	t.Setenv("REFOCUS_PYTHON", "")
	t.Setenv("REFOCUS_NODE_MODULES", t.TempDir())
	path := filepath.Join(t.TempDir(), "model.onnx")
	o := without
	o.Consumers = []consumer.Consumer{consumer.ONNXRuntime}
	if _, err := Write(context.Background(), path, model(t), o); err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, path)
	if c := cert.Consumers[0]; c.Outcome != Skipped || !strings.Contains(c.Detail, "pip install onnxruntime") {
		t.Errorf("recorded %+v", c)
	}
	if s := cert.Summary(); cert.Certified || s != "not certified, since no independent program predicted with it; skipped: ONNX Runtime" {
		t.Errorf("certified: %v; %s", cert.Certified, s)
	}
}

// need skips where one of the consumers is missing.
func need(t *testing.T, ks ...consumer.Consumer) {
	for _, k := range ks {
		err := k.Installed(context.Background())
		peers.Need(t, err == nil, "no "+k.Name+": "+k.Install)
	}
}

// A program that cannot run a network from elsewhere is recorded, and is no
// obstacle; a network of refocus' own must run.
func TestImported(t *testing.T) {
	need(t, consumer.ONNXRuntime, consumer.OpenCV)
	m := model(t)
	m.Graph = m.Graph.Clone()
	m.Graph.Nodes[0].Inputs[0] = "same"
	block := func() nn.Attrs { return nn.Attrs{"blocksize": int64(2)} }
	m.Graph.Nodes = slices.Insert(m.Graph.Nodes, 0,
		&nn.Node{Name: "to depth", Op: "SpaceToDepth", Inputs: []string{m.Graph.Input.Name}, Outputs: []string{"depth"}, Attrs: block()},
		&nn.Node{Name: "to space", Op: "DepthToSpace", Inputs: []string{"depth"}, Outputs: []string{"same"}, Attrs: block()})
	path := filepath.Join(t.TempDir(), "model.onnx")
	o := Options{Bare: true, Predict: predict, Consumers: []consumer.Consumer{consumer.ONNXRuntime, consumer.OpenCV}}
	m.Imported = true
	if _, err := Write(context.Background(), path, m, o); err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, path)
	if k := cert.Consumers[1]; k.Outcome == Passed {
		t.Skipf("OpenCV %s runs SpaceToDepth", k.Version)
	}
	if cert.Consumers[0].Outcome != Passed || cert.Consumers[1].Outcome != Refused || !cert.Certified || !strings.Contains(cert.Summary(), "refused: OpenCV") {
		t.Errorf("%s", cert.Summary())
	}
	m.Imported = false
	if _, err := Write(context.Background(), path, m, o); err == nil || !strings.Contains(err.Error(), "OpenCV") {
		t.Errorf("a network of our own that OpenCV cannot run: %v", err)
	}
}

func TestConsumersCertify(t *testing.T) {
	need(t, consumer.All()...)
	ctx := context.Background()
	m := model(t)
	g := m.Graph
	x := testnet.Noise(2, 1, 48, 32)
	labels := make([]uint8, 2*48*32)
	for i := range labels {
		if x.F32[i] > 1 {
			labels[i] = 1
		}
	}
	m.Holdout = []Labelled{{Tensor{x.Shape, x.F32}, labels}}
	dir := t.TempDir()
	check := func(t *testing.T, path string, asked int) Certificate {
		c := certificate(t, path)
		n := 0
		for _, k := range c.Consumers {
			t.Logf("%s %s: probabilities %.2g, logits %.2g, %s%s", k.Name, k.Version, k.Probabilities, k.Logits, k.Outcome, k.Detail)
			if k.Outcome != Skipped {
				n++
			}
		}
		if n != asked || !c.Certified {
			t.Errorf("%d consumers were asked, want %d", n, asked)
		}
		return c
	}
	t.Run("float32", func(t *testing.T) {
		path := filepath.Join(dir, "model.onnx")
		if _, err := Write(ctx, path, m, Options{Predict: predict}); err != nil {
			t.Fatal(err)
		}
		c := check(t, path, 4)
		for _, k := range c.Consumers {
			if k.Probabilities > 1e-5 || k.Logits > 1e-5 {
				t.Errorf("%s differs by more than 1e-5", k.Name)
			}
		}
		if c := check(t, filepath.Join(dir, "model-standardizing.onnx"), 4); !c.Standardizes {
			t.Error("the second model does not say that it standardises")
		}
	})
	t.Run("float16", func(t *testing.T) {
		path := filepath.Join(dir, "half.onnx")
		if _, err := Write(ctx, path, m, Options{Bare: true, Predict: predict, Precision: Float16}); err != nil {
			t.Fatal(err)
		}
		c := check(t, path, 2)
		full := 4 * g.Count("")
		if c.Bytes > int64(full)*6/10 {
			t.Errorf("%d bytes for %d in float32", c.Bytes, full)
		}
		if d := c.Consumers[0].DiceDrop; d == nil || *d > 0.01 || *d < -0.01 {
			t.Errorf("Dice drop %v", d)
		} else {
			t.Logf("Dice drop %g", *d)
		}
		h, err := onnx.Unmarshal(read(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if h.Count("") != g.Count("") {
			t.Errorf("%d parameters were read back, written were %d", h.Count(""), g.Count(""))
		}
	})
}

// Files that load without complaint and are wrong must fail by their
// predictions alone.
func TestNegativeControls(t *testing.T) {
	need(t, consumer.ONNXRuntime, consumer.OpenCV, consumer.OpenCVJS)
	ctx := context.Background()
	m := model(t)
	broken := m.Graph.Clone()
	broken.Tensor("encoder.down2.unit1.conv1.weight").Data[100] += 0.5

	// The last doubling as a transposed convolution with a kernel of ones per
	// channel: the same function.
	grouped := m.Graph.Clone()
	for _, n := range grouped.Nodes {
		if n.Name == "decoder.up4.resize" {
			n.Op, n.Inputs = "ConvTranspose", []string{n.Inputs[0], "ones"}
			n.Attrs = nn.Attrs{"group": int64(8), "kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}
		}
	}
	grouped.Tensors = append(grouped.Tensors, &nn.Tensor{Name: "ones", Shape: []int{8, 1, 2, 2}, Data: slices.Repeat([]float32{1}, 32)})

	// At opset 11 an omitted region has to be given, and Softmax flattens.
	flattening := m.Graph.Clone()
	for _, n := range flattening.Nodes {
		if n.Op == "Resize" {
			n.Inputs[1] = "region"
		}
	}
	flattening.Tensors = append(flattening.Tensors, &nn.Tensor{Name: "region", Shape: []int{8}, Data: make([]float32, 8)})

	for _, c := range []struct {
		name    string
		graph   *nn.Graph
		opset11 bool
		fails   []bool // of ONNX Runtime, OpenCV 4.6 and, where it is asked, OpenCV 4.13
	}{
		{"broken weight", broken, false, []bool{true, true}},
		{"grouped transposed convolution", grouped, false, []bool{false, true, true}},
		{"flattening softmax", flattening, true, []bool{true, false}},
	} {
		data, err := onnx.Marshal(c.graph, onnx.MarshalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c.opset11 {
			entry := "\x42\x04\x0a\x00\x10\x0d"
			if strings.Count(string(data), entry) != 1 {
				t.Fatal("the operator set's entry is not where it was")
			}
			data = []byte(strings.Replace(string(data), entry, "\x42\x04\x0a\x00\x10\x0b", 1))
		}
		path := filepath.Join(t.TempDir(), "model.onnx")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		k := &certifier{model: m, graph: m.Graph, options: Options{Predict: predict,
			Consumers: []consumer.Consumer{consumer.ONNXRuntime, consumer.OpenCV, consumer.OpenCVJS}[:len(c.fails)]}}
		if err := k.predictions(ctx, path); err != nil {
			t.Fatal(err)
		}
		for i, got := range k.cert.Consumers {
			if (got.Outcome == Passed) == c.fails[i] {
				t.Errorf("%s: %s %s; %s", c.name, got.Name, got.Outcome, got.Detail)
			}
			t.Logf("%s: %s %s: %v, probabilities differ by %.2g %s", c.name, got.Name, got.Version, got.Outcome, got.Probabilities, got.Detail)
		}
	}
	if err := sameGraph(broken, m.Graph, sameBits); err == nil || !strings.Contains(err.Error(), "encoder.down2.unit1.conv1.weight") {
		t.Errorf("comparing weights: %v", err)
	}
}

// unzip returns the files of a package.
func unzip(t *testing.T, path string) map[string]string {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string]string{}
	for _, f := range z.File {
		b, err := fs.ReadFile(z, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(b)
	}
	return files
}

func TestBioImage(t *testing.T) {
	ctx := context.Background()
	m := model(t)
	o := without
	o.Format = BioImageIO
	var bytes [2][]byte
	path := filepath.Join(t.TempDir(), "model.zip")
	for i := range bytes {
		if _, err := Write(ctx, path, m, o); err != nil {
			t.Fatal(err)
		}
		bytes[i] = read(t, path)
	}
	if string(bytes[0]) != string(bytes[1]) {
		t.Error("two exports differ")
	}
	files := unzip(t, path)
	var names []string
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if want := []string{"bioimageio.yaml", "weights.onnx", "weights.pt", "network.py", "test_input.npy", "sample_input.tif", "test_output.npy", "sample_output.tif", "cover.png", "README.md", "rdf.yaml"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	yaml := files["bioimageio.yaml"]
	info, err := onnx.Inspect([]byte(files["weights.onnx"]))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"type: model\n", "opset_version: 13\n", "license: CC-BY-4.0\n", "doi: \"10.69761/kjte5358\"\n", "unit: nanometer\n", "scale: 0.02\n",
		"channel_names: [background, nanoparticle]\n",
		fmt.Sprintf("sha256: %x\n", sha256.Sum256([]byte(files["weights.onnx"]))),
		fmt.Sprintf("sha256: %x\n", sha256.Sum256([]byte(files["test_input.npy"]))),
		fmt.Sprintf("sha256: %x\n", sha256.Sum256([]byte(files["sample_output.tif"]))),
		"maintainers:\n  - github_user: \"somebody\"\n",
		// the description and the model's metadata agree
		fmt.Sprintf("run_digest: %q\n", info.Metadata["refocus.run_digest"]),
		fmt.Sprintf("weights_digest: %q\n", info.Metadata["refocus.weights_digest"]),
	} {
		if !strings.Contains(yaml, want) {
			t.Errorf("the description lacks %q", want)
		}
	}
	for _, want := range []string{
		"format_version: 0.4.10\n", "shape: {min: [1, 1, 336, 336], step: [0, 0, 16, 16]}\n", "halo: [0, 0, 160, 160]\n",
		"scale: [1.0, 2.0, 1.0, 1.0]", fmt.Sprintf("sha256: %x\n", sha256.Sum256([]byte(files["weights.onnx"]))),
	} {
		if !strings.Contains(files["rdf.yaml"], want) {
			t.Errorf("rdf.yaml lacks %q:\n%s", want, files["rdf.yaml"])
		}
	}
	if !strings.Contains(files["README.md"], "\n# Validation\n") {
		t.Error("README.md has no section # Validation")
	}
	if n := len(files["cover.png"]); n > 500_000 {
		t.Errorf("cover of %d bytes", n)
	}
	cover, err := png.Decode(strings.NewReader(files["cover.png"]))
	if err != nil || cover.Bounds().Dx() != 2*cover.Bounds().Dy() {
		t.Errorf("cover %v, %v", cover.Bounds(), err)
	}
}

// A package of a network from elsewhere claims no licence, author or publication that
// its user has not named.
func TestLicence(t *testing.T) {
	for in, want := range map[string]Citation{
		"A. Uthor: Nets (2024). 10.1234/ab.c":   {"A. Uthor: Nets (2024).", "10.1234/ab.c", ""},
		"A. Uthor https://doi.org/10.1234/x(1)": {"A. Uthor", "10.1234/x(1)", ""},
		" A. Uthor  https://example.org/paper ": {"A. Uthor", "", "https://example.org/paper"},
		"10.1234/abc":                           {},
		"A. Uthor: Nets (2024)":                 {},
		"A. Uthor http://example.org":           {},
		"":                                      {},
	} {
		got, err := ParseCitation(in)
		if got != want || (err == nil) != (want != Citation{}) {
			t.Errorf("%q is read as %+v, %v", in, got, err)
		}
	}
	o := without
	o.Format = BioImageIO
	path := filepath.Join(t.TempDir(), "model.zip")
	m := model(t)
	m.Imported, m.License, m.Authors, m.Cite = true, "", nil, nil
	for _, try := range []func(m *Model){
		func(m *Model) {}, func(m *Model) { m.License = "MIT" }, func(m *Model) { m.Authors = []string{"A. Uthor"} },
		func(m *Model) { m.License, m.Authors = "the MIT licence", []string{"A. Uthor"} },
	} {
		n := m
		try(&n)
		if _, err := Write(context.Background(), path, n, o); err == nil || !strings.Contains(err.Error(), "licence") {
			t.Errorf("licence %q, authors %q: %v", n.License, n.Authors, err)
		}
	}
	m.License, m.Authors, m.Cite = "MIT", []string{"A. Uthor"}, []Citation{{"A. Uthor: Nets", "", "https://example.org/paper"}}
	if _, err := Write(context.Background(), path, m, o); err != nil {
		t.Fatal(err)
	}
	files := unzip(t, path)
	for _, name := range []string{"rdf.yaml", "bioimageio.yaml", "README.md"} {
		if text := files[name]; !strings.Contains(text, "MIT") || !strings.Contains(text, "https://example.org/paper") ||
			strings.Contains(text, "CC-BY") || strings.Contains(text, "kjte5358") || strings.Contains(text, "refocus developers") {
			t.Errorf("%s claims otherwise:\n%s", name, text)
		}
	}
}

func TestName(t *testing.T) {
	long := "HRTEM nanoparticle segmentation domain"
	for title, want := range map[string]string{
		"HRTEM nanoparticle segmentation, w_CdSe, −2.5 nm, 400 e⁻/Å²": "HRTEM nanoparticle segmentation w_CdSe -2_5 nm 400 e per A2",
		"Gold: 5 Å / “all”":                "Gold 5 A - all",
		long + strings.Repeat(" word", 9):  long + strings.Repeat(" word", 5),
		long + strings.Repeat("-word", 90): "HRTEM nanoparticle segmentation",
		strings.Repeat("w", 90):            strings.Repeat("w", 64),
	} {
		if got := name(title); got != want {
			t.Errorf("%q is named %q, want %q", title, got, want)
		}
	}
}
