package trained

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// inProcess is the cpu backend without a process of its own.
type inProcess struct{ backend.Backend }

func (inProcess) Close() error { return nil }

// ownImages writes labelled discs of 32×32 pixels and returns the spec's tables
// of two domains of them.
func ownImages(t *testing.T, dir string) string {
	t.Helper()
	const n, size = 12, 32
	x := testnet.Noise(1, 1, size, size)
	var images, labels []float32
	for range n {
		images = append(images, x.F32...)
		for i := range size * size {
			var l float32
			if dy, dx := i/size-14, i%size-9; dy*dy+dx*dx < 36 {
				l = 1
			}
			labels = append(labels, l)
		}
	}
	for name, data := range map[string][]float32{"images.npy": images, "labels.npy": labels} {
		var b bytes.Buffer
		if err := imagefile.WriteNPY(&b, []int{n, size, size}, data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	tables := ""
	for _, d := range []string{"a", "b"} {
		tables += fmt.Sprintf("[domain.%s]\nimages = \"images.npy\"\nlabels = \"labels.npy\"\ntrain_images = 8\nvalidation_images = 4\n", d)
	}
	return tables
}

// A spec names the ONNX file of somebody else's network. It is trained from the
// weights that the spec says, the run holds it, and the model is found again.
func TestForeignNetwork(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	tables := ownImages(t, dir)
	// three channels, one logit: what it computes is what one of the U-Net's logits is
	g := testnet.Trained(t)
	w := g.Tensor("encoder.init.conv.weight")
	var data []float32
	for row := range slices.Chunk(w.Data, 49) {
		for range 3 {
			for _, v := range row {
				data = append(data, v/3)
			}
		}
	}
	w.Shape, w.Data, g.Input.Shape = []int{w.Shape[0], 3, 7, 7}, data, []int{1, 3, 0, 0}
	head, bias := g.Tensor("decoder.head.weight"), g.Tensor("decoder.head.bias")
	k := head.Shape[1]
	for i := range k {
		head.Data[i] = head.Data[k+i] - head.Data[i]
	}
	head.Shape, head.Data = []int{1, k, 1, 1}, head.Data[:k]
	bias.Shape, bias.Data = []int{1}, []float32{bias.Data[1] - bias.Data[0]}
	g.Nodes = g.Nodes[:len(g.Nodes)-1]
	g.Output = nn.Value{Name: nn.Logits, Shape: []int{1, 1, 0, 0}}
	file, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net.onnx"), file, 0o666); err != nil {
		t.Fatal(err)
	}
	spec := func(weights, frozen string) *study.Plan {
		path := filepath.Join(dir, "study.toml")
		text := fmt.Sprintf(`name = "foreign"
kind = "transfer"
%s
[network]
onnx = "net.onnx"
weights = %q
[training]
batch = 4
initialisations = 1
pretrain_sharing = "seed"
[source]
domain = ["a"]
[target]
domain = ["b"]
[pretrain]
epochs = 1
images = 2
learning_rates = [1e-4]
[transfer]
epochs = 1
images = [1]
learning_rates = [1e-4]
frozen = [%q]
`, tables, weights, frozen)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		p, err := study.Load(path, "")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	b := inProcess{cpu.New("test")}
	desc, err := b.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	dice := map[string]float64{}
	for _, c := range []struct{ weights, frozen string }{
		{study.WeightsKept, nn.Encoder}, {study.WeightsNewHead, study.FreezeNone}, {study.WeightsRandom, study.FreezeNone},
	} {
		r, err := reproduce.Resolve(ctx, st, spec(c.weights, c.frozen), desc)
		if err != nil {
			t.Fatal(err)
		}
		images, err := r.Generate(ctx, dataset.Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		failures, err := r.Train(ctx, reproduce.TrainOptions{Launch: func(context.Context) (reproduce.Process, error) { return b, nil }, Threads: 1, Images: images})
		if err != nil || len(failures) > 0 {
			t.Fatal(err, failures)
		}
		m, err := Best(st, r.Nodes, "")
		if err != nil {
			t.Fatal(err)
		}
		if bad := st.Verify(m.Digest); len(bad) > 0 {
			t.Errorf("%s: %v", c.weights, bad)
		}
		if !slices.Equal(m.Graph.Input.Shape, []int{0, 1, 0, 0}) || !slices.Equal(m.Graph.Output.Shape, []int{0, 2, 0, 0}) {
			t.Errorf("%s: a network from %v to %v", c.weights, m.Graph.Input.Shape, m.Graph.Output.Shape)
		}
		dice[c.weights] = m.Score().Dice
		parent, err := Open(st, m.Spec.Parent)
		if err != nil {
			t.Fatal(err)
		}
		const deep = "encoder.down3.unit2.conv2.weight"
		if got, was := m.Graph.Tensor(deep).Data, parent.Graph.Tensor(deep).Data; slices.Equal(got, was) != (c.frozen == nn.Encoder) {
			t.Errorf("%s: the encoder has changed %v, frozen is %s", c.weights, !slices.Equal(got, was), c.frozen)
		}
		if kept := slices.Contains(names(m.Graph), nn.NewHead+".weight"); kept != (c.weights == study.WeightsNewHead) {
			t.Errorf("%s: has a new head: %v", c.weights, kept)
		}
		d, err := m.Describe()
		if err != nil || !strings.Contains(d.Description, "imported") {
			t.Errorf("%s: described as %q, %v", c.weights, d.Description, err)
		}
		if d.License != "" || d.Authors != nil || d.Cite != nil {
			t.Errorf("%s: claims %q, %q, %v for somebody else's network", c.weights, d.License, d.Authors, d.Cite)
		}
	}
	// the network has learnt to find such discs; the other two have had a dozen steps
	if !(dice[study.WeightsKept] > 0.9 && dice[study.WeightsRandom] < 0.9) {
		t.Errorf("Dice %v", dice)
	}
}

func names(g *nn.Graph) []string {
	var r []string
	for _, p := range g.Parameters() {
		r = append(r, p.Name)
	}
	return r
}
