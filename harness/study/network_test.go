package study

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// A spec may name an ONNX file in place of a width; what does not fit is refused
// before anything is simulated or trained.
func TestNetworkFromFile(t *testing.T) {
	g, err := nn.UNet(nn.UNetOptions{Width: 4, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 1)
	write := func(path string, g *nn.Graph) {
		t.Helper()
		file, err := onnx.Marshal(g, onnx.MarshalOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, file, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	write(filepath.Join(dir, "unet.onnx"), g)
	fixed := g.Clone()
	fixed.Input.Shape, fixed.Output.Shape = []int{1, 1, 96, 96}, []int{1, 2, 96, 96}
	write(filepath.Join(dir, "fixed.onnx"), fixed)
	five, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 5})
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "five.onnx"), five)

	load := func(network, frozen string) (*Plan, error) {
		path := filepath.Join(dir, "study.toml")
		text := `name = "n"
kind = "transfer"
grid = { crystal = ["w_CdSe"], defocus = [-100, 100], dose = [400] }
pretrain = { learning_rates = [1e-3] }
transfer = { images = [64], learning_rates = [1e-4], frozen = ["` + frozen + `"] }
[network]
` + network
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return Load(path, "")
	}
	p, err := load(`onnx = "unet.onnx"`, nn.Encoder)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Study.Network; n.Weights != WeightsKept || n.ONNX != filepath.Join(dir, "unet.onnx") || n.Width != 0 {
		t.Errorf("network %+v", n)
	}
	if p.Width() != 4 {
		t.Errorf("a U-Net of width 4 counts as one of width %d", p.Width())
	}
	var text strings.Builder
	if err := WritePlan(&text, p, PlanOptions{}); err != nil || !strings.Contains(text.String(), "unet.onnx, 56,") {
		t.Errorf("plan %v\n%s", err, text.String())
	}
	same, err := load(`width = 4`, nn.Encoder)
	if err != nil {
		t.Fatal(err)
	}
	got, want := p.Estimate(), same.Estimate()
	want.RecordBytes += want.ModelBytes // the file, in every run
	if got != want {
		t.Errorf("estimate %+v, of the same U-Net %+v", got, want)
	}
	random, err := load("onnx = \"five.onnx\"\nweights = \"random\"", FreezeNone)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range random.Network.Tensor("encoder.init.conv.weight").Data {
		if v != 0 {
			t.Fatal("the file's weights are in a network whose weights are drawn")
		}
	}
	for _, c := range []struct{ network, frozen, want string }{
		{`onnx = "missing.onnx"`, FreezeNone, "missing.onnx"},
		{`weights = "random"`, FreezeNone, "network.weights: belongs to network.onnx"},
		{"onnx = \"unet.onnx\"\nweights = \"keep\"", FreezeNone, "kept"},
		{`onnx = "unet.onnx"`, "middle", "parameters of decoder, encoder"},
		{`onnx = "unet.onnx"`, "a/b", "transfer.frozen"},
		{`onnx = "five.onnx"`, FreezeNone, `network.weights = "new-head" does that`},
		{`onnx = "fixed.onnx"`, FreezeNone, "512×512"},
	} {
		if _, err := load(c.network, c.frozen); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, frozen %s: error %v does not say %q", c.network, c.frozen, err, c.want)
		}
	}
}
