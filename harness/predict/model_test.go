package predict

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// ending replaces the final softmax by other nodes, each reading the one before.
func ending(g *nn.Graph, k int, nodes ...*nn.Node) *nn.Graph {
	h := g.Clone()
	last := h.Nodes[len(h.Nodes)-1].Inputs[0]
	h.Nodes = h.Nodes[:len(h.Nodes)-1]
	for i, n := range nodes {
		n.Name, n.Inputs, n.Outputs = fmt.Sprint("end ", i), append([]string{last}, n.Inputs...), []string{fmt.Sprint("end ", i)}
		last = n.Outputs[0]
		h.Nodes = append(h.Nodes, n)
	}
	h.Output = nn.Value{Name: last, Shape: []int{0, k, 0, 0}}
	return h
}

// TestHeads gives one network all the ends that networks have: the probabilities
// are those of its softmax.
func TestHeads(t *testing.T) {
	g := testnet.Trained(t)
	im, _ := discs(100, 90)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	segment := func(g *nn.Graph, o LoadOptions) (*Segmenter, *Segmentation) {
		t.Helper()
		data, err := onnx.Marshal(g, onnx.MarshalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := Load(save(t, data), o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.Segment(context.Background(), im, runner(t, m.Graph, nil), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return m, s
	}
	_, want := segment(g, LoadOptions{})
	axis := func() nn.Attrs { return nn.Attrs{"axis": int64(1)} }
	// the logit of one class is the difference of the two
	one := ending(g, 1, &nn.Node{Op: "Conv", Inputs: []string{"difference"}, Attrs: nn.Attrs{}})
	one.Tensors = append(one.Tensors, &nn.Tensor{Name: "difference", Shape: []int{1, 2, 1, 1}, Data: []float32{-1, 1}})
	one.AssignRoles()
	sigmoid := one.Clone()
	sigmoid.Nodes = append(sigmoid.Nodes, &nn.Node{Name: "sigmoid", Op: "Sigmoid", Inputs: []string{sigmoid.Output.Name}, Outputs: []string{"p"}, Attrs: nn.Attrs{}})
	sigmoid.Output.Name = "p"
	for name, c := range map[string]struct {
		graph *nn.Graph
		o     LoadOptions
		note  string
	}{
		"logits":            {ending(g, 2, &nn.Node{Op: "Identity"}), LoadOptions{}, "logits"},
		"logits, said so":   {ending(g, 2, &nn.Node{Op: "Identity"}), LoadOptions{Activation: Softmax}, ""},
		"log-softmax":       {ending(g, 2, &nn.Node{Op: "LogSoftmax", Attrs: axis()}), LoadOptions{}, ""},
		"arg-max":           {ending(g, 1, &nn.Node{Op: "ArgMax", Attrs: axis()}, &nn.Node{Op: "Cast", Attrs: nn.Attrs{"to": int64(1)}}), LoadOptions{}, "scores"},
		"arg-max of a soft": {ending(g, 1, &nn.Node{Op: "Softmax", Attrs: axis()}, &nn.Node{Op: "ArgMax", Attrs: axis()}, &nn.Node{Op: "Cast", Attrs: nn.Attrs{"to": int64(1)}}), LoadOptions{}, "scores"},
		"one logit":         {one, LoadOptions{}, "logit"},
		"sigmoid":           {sigmoid, LoadOptions{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m, got := segment(c.graph, c.o)
			if len(m.Classes) != 2 {
				t.Errorf("classes %v", m.Classes)
			}
			if notes := strings.Join(m.Notes, "; "); c.note != "" && !strings.Contains(notes, c.note) {
				t.Errorf("notes %q do not say %q", notes, c.note)
			}
			for i, p := range want.Probability { // float32 arithmetic in another order
				if d := math.Abs(float64(got.Probability[i] - p)); !(d <= 2e-6) {
					t.Fatalf("pixel %d: probability %g, want %g", i, got.Probability[i], p)
				}
				if got.Class[i] != want.Class[i] && math.Abs(float64(p)-0.5) > 1e-5 {
					t.Fatalf("pixel %d: class %d, want %d", i, got.Class[i], want.Class[i])
				}
			}
		})
	}
	if _, err := New(ending(g, 2, &nn.Node{Op: "Relu", Attrs: nn.Attrs{}})); err != nil {
		t.Errorf("any end: %v", err)
	}
}

// A network of fixed size predicts a larger and a smaller image in tiles of that
// size, and one of a fixed batch takes it.
func TestFixedSize(t *testing.T) {
	g := testnet.Trained(t)
	im, _ := discs(700, 333)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	segment := func(g *nn.Graph, im Image) *Segmentation {
		t.Helper()
		m, err := New(g)
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.Segment(ctx, im, runner(t, g, nil), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := segment(g, im)
	fixed := g.Clone()
	fixed.Input.Shape = []int{2, 1, 384, 400}
	got := segment(fixed, im)
	for y := range im.H {
		for x := range im.W {
			if x+160 > im.W { // at the border the free network sees the image's end, this one its reflection
				continue
			}
			if i := y*im.W + x; y+160 < im.H && math.Abs(float64(got.Probability[i]-want.Probability[i])) > 1e-6 {
				t.Fatalf("pixel (%d, %d): %g, want %g", y, x, got.Probability[i], want.Probability[i])
			}
		}
	}
	small := Image{40, 30, im.Pixels[:1200]}
	if s := segment(fixed, small); len(s.Probability) != 1200 {
		t.Errorf("%d pixels", len(s.Probability))
	}
	odd := g.Clone()
	odd.Input.Shape = []int{0, 1, 384, 0}
	if _, err := New(odd); err == nil || !strings.Contains(err.Error(), "both sizes") {
		t.Errorf("one fixed size: %v", err)
	}
}

// A network without padding answers for the middle of what it sees: it is given
// the reflected surroundings.
func TestValid(t *testing.T) {
	g := &nn.Graph{
		Input: nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "y", Shape: []int{0, 2, 0, 0}},
		Tensors: []*nn.Tensor{{Name: "w", Shape: []int{2, 1, 3, 3}, Data: []float32{0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, -1, 2, 0, 1, 3, 1, -2, 0.25}}},
		Nodes: []*nn.Node{
			{Name: "conv", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"y"}, Attrs: nn.Attrs{}},
		},
	}
	g.AssignRoles()
	m, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	if m.grid.less != 2 || m.grid.period != 1 {
		t.Errorf("grid %+v", m.grid)
	}
	im := Image{9, 13, make([]float32, 9*13)}
	for i := range im.Pixels {
		im.Pixels[i] = float32(i*i%17) / 8
	}
	s, err := m.Segment(context.Background(), im, runner(t, g, nil), 6, nil)
	if err != nil {
		t.Fatal(err)
	}
	for y := range im.H {
		for x := range im.W {
			var z float64
			for ky := range 3 {
				for kx := range 3 {
					iy, ix := y+ky-1, x+kx-1
					iy, ix = max(iy, -iy), max(ix, -ix)
					iy, ix = min(iy, 2*(im.H-1)-iy), min(ix, 2*(im.W-1)-ix)
					z += float64(g.Tensors[0].Data[9+ky*3+kx]) * float64(im.Pixels[iy*im.W+ix])
				}
			}
			if got, want := float64(s.Probability[y*im.W+x]), 1/(1+math.Exp(-z)); math.Abs(got-want) > 1e-6 {
				t.Fatalf("pixel (%d, %d): %g, want %g", y, x, got, want)
			}
		}
	}
}

// The grey image goes to every channel, each with its own constants where the
// preparation says so.
func TestChannels(t *testing.T) {
	g := &nn.Graph{
		Input: nn.Value{Name: "x", Shape: []int{0, 3, 0, 0}}, Output: nn.Value{Name: "y", Shape: []int{0, 1, 0, 0}},
		Tensors: []*nn.Tensor{{Name: "w", Shape: []int{1, 3, 1, 1}, Data: []float32{1, 10, 100}}},
		Nodes:   []*nn.Node{{Name: "conv", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"y"}, Attrs: nn.Attrs{}}},
	}
	g.AssignRoles()
	data, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(save(t, data), LoadOptions{Preparation: "fixed:1,2/2,4/3,5", Activation: Probabilities})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Segment(context.Background(), Image{1, 1, []float32{4}}, runner(t, g, nil), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Probability[0], float32(1.5+10*0.5+100*0.2); got != want {
		t.Errorf("%g, want %g", got, want)
	}
	if _, err := Load(save(t, data), LoadOptions{Preparation: "fixed:1,2/2,4"}); err == nil || !strings.Contains(err.Error(), "2 channels") {
		t.Errorf("two pairs for three channels: %v", err)
	}
}

func TestPreparation(t *testing.T) {
	for s, want := range map[string][]float32{
		"none":             {4, 0, 2, 10},
		"range":            {0.4, 0, 0.2, 1},
		"percentile:0,50":  {4. / 3, 0, 2. / 3, 10. / 3}, // NumPy's median of the four is 3
		"percentile:25,75": {0.625, -0.375, 0.125, 2.125},
		"fixed:2,4":        {0.5, -0.5, 0, 2},
		"standardize":      {0, -4 / 3.7416574, -2 / 3.7416574, 6 / 3.7416574},
	} {
		p, err := ParsePreparation(s)
		if err != nil {
			t.Fatal(err)
		}
		if p.String() != s {
			t.Errorf("%q came back as %q", s, p)
		}
		im := Image{2, 2, []float32{4, 0, 2, 10}}
		if err := p.Apply(im); err != nil {
			t.Fatal(err)
		}
		for i, v := range im.Pixels {
			if math.Abs(float64(v-want[i])) > 1e-6 {
				t.Errorf("%s: %v, want %v", s, im.Pixels, want)
				break
			}
		}
	}
	for _, s := range []string{"", "scale", "percentile:5", "percentile:99,1", "percentile:-1,50", "fixed:1,0", "fixed:a,b", "fixed:NaN,1"} {
		if _, err := ParsePreparation(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	for s, im := range map[string]Image{"range": {1, 2, []float32{3, 3}}, "none": {1, 1, []float32{float32(math.NaN())}}} {
		p, err := ParsePreparation(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(im); err == nil {
			t.Errorf("%s of %v is accepted", s, im.Pixels)
		}
	}
}

// Packages of both formats, as a ZIP file and as its folder.
func TestPackages(t *testing.T) {
	g := testnet.Random(t, 2)
	model, err := onnx.Marshal(ending(g, 2, &nn.Node{Op: "Identity"}), onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const new = `format_version: 0.5.4
inputs:
  - id: image
    axes:
      - type: batch
      - {type: channel, channel_names: [intensity]}
      - {type: space, id: y, size: {min: 64, step: 16}, unit: nanometer, scale: 0.04}
      - {type: space, id: x, size: {min: 64, step: 16}, unit: nanometer, scale: 0.04}
    preprocessing:
      - {id: ensure_dtype, kwargs: {dtype: float32}}
      - {id: scale_range, kwargs: {axes: [channel, y, x], min_percentile: 1.0, max_percentile: 99.0}}
outputs:
  - id: p
    axes:
      - type: batch
      - {type: channel, channel_names: [substrate, particle]}
    postprocessing:
      - {id: softmax, kwargs: {axis: channel}}
weights:
  onnx: {source: net.onnx, opset_version: 13}
`
	const old = `format_version: 0.4.10
inputs:
  - name: image
    axes: bcyx
    preprocessing:
      - {name: zero_mean_unit_variance, kwargs: {mode: fixed, axes: yx, mean: [10.5], std: [2.0]}}
outputs:
  - name: p
    axes: bcyx
weights:
  onnx: {source: net.onnx}
  pytorch_state_dict: {source: net.pt}
`
	pack := func(files map[string]string) string {
		path := filepath.Join(t.TempDir(), "package.zip")
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name, content := range files {
			w, err := z.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m, err := Load(pack(map[string]string{"bioimageio.yaml": new, "net.onnx": string(model)}), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Preparation.String() != "percentile:1,99" || m.PixelSize != 0.4 || !slices.Equal(m.Classes, []string{"substrate", "particle"}) || m.head.activation != Softmax {
		t.Errorf("read as %s, %g Å, %v, %s", m.Preparation, m.PixelSize, m.Classes, m.head.activation)
	}
	m, err = Load(pack(map[string]string{"net/rdf.yaml": old, "net/net.onnx": string(model)}), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Preparation.String() != "fixed:10.5,2" {
		t.Errorf("read as %s", m.Preparation)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"rdf.yaml": old, "net.onnx": string(model)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err = Load(dir, LoadOptions{Preparation: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if m.Preparation.String() != "none" {
		t.Errorf("read as %s", m.Preparation)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no description": {map[string]string{"net.onnx": string(model)}, "rdf.yaml"},
		"no weights":     {map[string]string{"rdf.yaml": old}, "net.onnx"},
		"not in ONNX":    {map[string]string{"rdf.yaml": strings.Replace(old, "  onnx: {source: net.onnx}\n", "", 1)}, "pytorch_state_dict"},
		"outside":        {map[string]string{"rdf.yaml": strings.Replace(old, "source: net.onnx", "source: ../net.onnx", 1)}, "not in the package"},
		"unknown step":   {map[string]string{"rdf.yaml": strings.Replace(old, "name: zero_mean_unit_variance", "name: equalize", 1), "net.onnx": string(model)}, "equalize"},
		"no YAML":        {map[string]string{"rdf.yaml": "{"}, "rdf.yaml"},
	} {
		if _, err := Load(pack(c.files), LoadOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not say %q", name, err, c.want)
		}
	}
}

// A package of a few bytes does not fill the memory.
func TestInflation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "package.zip")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, write := range map[string]func(w io.Writer) error{
		"rdf.yaml": func(w io.Writer) error {
			_, err := io.WriteString(w, "inputs: [{axes: bcyx}]\noutputs: [{axes: bcyx}]\nweights: {onnx: {source: weights.onnx}}\n")
			return err
		},
		"weights.onnx": func(w io.Writer) error {
			zeros := make([]byte, 1<<20)
			for range 65 {
				if _, err := w.Write(zeros); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		w, err := z.Create(name)
		if err == nil {
			err = write(w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	d, err := describe(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, _, err := d.read(path, onnx.ReadOptions{}); err == nil || !strings.Contains(err.Error(), "weights.onnx inflates from") {
		t.Errorf("error %v", err)
	}
}
