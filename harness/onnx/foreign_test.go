package onnx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// TestForeignFiles runs files that people have reported, and small ones in the
// manner of converters, and compares with ONNX Runtime's answers.
func TestForeignFiles(t *testing.T) {
	paths, err := filepath.Glob("testdata/foreign/*.onnx")
	if err != nil || len(paths) == 0 {
		t.Fatal(err)
	}
	var runs []consumer.Run
	var results [][]float32
	for _, p := range paths {
		shape := []int{1, 1, 8, 8}
		switch filepath.Base(p) {
		case "fixed-batch-2.onnx":
			shape[0] = 2
		case "original-unet-valid-crop.onnx":
			shape = []int{1, 1, 48, 64}
		}
		last := filepath.Base(p) == "softmax-nhwc-out.onnx" || filepath.Base(p) == "nhwc.onnx" // the file's output is [N,H,W,K]
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := onnxgo.Check(data); err != nil && !errors.Is(err, onnxgo.ErrUnread) {
			t.Errorf("%s: %v", p, err)
		}
		x := testnet.Noise(shape...)
		y, err := runFile(p, shape, x.F32)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if last {
			y = transposed(y, 2, 64)
		}
		if filepath.Base(p) == "nhwc.onnx" { // and so is its input, of one channel
			shape = []int{1, 8, 8, 1}
		}
		runs = append(runs, consumer.Run{Model: p, Shape: shape, Data: x.F32})
		results = append(results, y)
	}
	_, want, err := consumer.ONNXRuntime.Predict(context.Background(), runs)
	peers.Need(t, !errors.Is(err, consumer.ErrMissing), fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range want {
		tolerance := 1e-5 // float32 rounding of a few layers
		if filepath.Base(runs[i].Model) == "float16.onnx" {
			tolerance = 1e-3 // ONNX Runtime rounds the image to eleven bits
		}
		if r.Err != nil {
			t.Errorf("%s: %v", runs[i].Model, r.Err)
		} else if d := difference(results[i], r.Data); !(d <= tolerance) {
			t.Errorf("%s: differs from ONNX Runtime by %g", runs[i].Model, d)
		}
	}
}

// transposed turns an image [K,pixels] into [pixels,K].
func transposed(x []float32, k, pixels int) []float32 {
	y := make([]float32, len(x))
	for c := range k {
		for p := range pixels {
			y[p*k+c] = x[c*pixels+p]
		}
	}
	return y
}

// split moves the raw data of every tensor of a file that Marshal has written to
// a file beside it, as exporters do, and returns both. entries says how the
// place is described.
func split(t *testing.T, data []byte, entries func(offset, length int) map[string]string) (model, rest []byte) {
	t.Helper()
	rewrite := func(b []byte, num protowire.Number, f func(b []byte) []byte) []byte {
		var out []byte
		for len(b) > 0 {
			n, typ, k := protowire.ConsumeTag(b)
			size := protowire.ConsumeFieldValue(n, typ, b[k:])
			if k < 0 || size < 0 {
				t.Fatal("not a message")
			}
			field := b[:k+size]
			if n == num && typ == protowire.BytesType {
				v, _ := protowire.ConsumeBytes(b[k:])
				field = protowire.AppendBytes(protowire.AppendTag(nil, n, typ), f(v))
			}
			out = append(out, field...)
			b = b[k+size:]
		}
		return out
	}
	text := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	model = rewrite(data, 7, func(graph []byte) []byte {
		return rewrite(graph, 5, func(tensor []byte) []byte {
			var out []byte
			for b := tensor; len(b) > 0; {
				n, typ, k := protowire.ConsumeTag(b)
				size := protowire.ConsumeFieldValue(n, typ, b[k:])
				if n == 9 {
					raw, _ := protowire.ConsumeBytes(b[k:])
					for key, v := range entries(len(rest), len(raw)) {
						entry := text(text(nil, 1, key), 2, v)
						out = protowire.AppendBytes(protowire.AppendTag(out, 13, protowire.BytesType), entry)
					}
					out = protowire.AppendVarint(protowire.AppendTag(out, 14, protowire.VarintType), 1)
					rest = append(rest, raw...)
				} else {
					out = append(out, b[:k+size]...)
				}
				b = b[k+size:]
			}
			return out
		})
	})
	return model, rest
}

// TestExternalData reads a model whose weights lie in a file beside it, and
// refuses what would read from elsewhere or allocate without bound.
func TestExternalData(t *testing.T) {
	g := testnet.Random(t, 2)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := func(location string) func(offset, length int) map[string]string {
		return func(offset, length int) map[string]string {
			return map[string]string{"location": location, "offset": fmt.Sprint(offset), "length": fmt.Sprint(length)}
		}
	}
	try := func(t *testing.T, entries func(offset, length int) map[string]string, mend func(dir string, rest []byte) []byte) (*nn.Graph, error) {
		dir := t.TempDir()
		model, rest := split(t, data, entries)
		if mend != nil {
			rest = mend(dir, rest)
		}
		path := filepath.Join(dir, "model", "net.onnx")
		if err := os.MkdirAll(filepath.Join(dir, "model", "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"model/net.onnx": model, "model/net.onnx.data": rest, "model/data/w": rest, "secret": rest} {
			if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := onnx.Unmarshal(model); err == nil {
			t.Error("accepted without its folder")
		}
		g, _, err := onnx.ReadFile(path, onnx.ReadOptions{})
		return g, err
	}
	for _, location := range []string{"net.onnx.data", "data/w"} {
		h, err := try(t, at(location), nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := onnx.Marshal(h, onnx.MarshalOptions{})
		if err != nil || string(again) != string(data) {
			t.Errorf("%s: the network came back otherwise (%v)", location, err)
		}
	}
	h, err := try(t, func(offset, _ int) map[string]string {
		return map[string]string{"location": "net.onnx.data", "offset": fmt.Sprint(offset), "checksum": "0"}
	}, nil)
	if err != nil || h.Count("") != g.Count("") {
		t.Errorf("without lengths: %v", err)
	}
	for name, c := range map[string]struct {
		entries func(offset, length int) map[string]string
		mend    func(dir string, rest []byte) []byte
		want    string
	}{
		"parent":    {at("../secret"), nil, "outside the model's folder"},
		"hidden":    {at("data/../../secret"), nil, "outside the model's folder"},
		"absolute":  {at("/etc/passwd"), nil, "outside the model's folder"},
		"directory": {at("data"), nil, "is no file"},
		"missing":   {at("nothing"), nil, "nothing"},
		"unnamed":   {at(""), nil, "does not say which"},
		"offset": {func(offset, length int) map[string]string {
			return map[string]string{"location": "net.onnx.data", "offset": "9223372036854775807"}
		}, nil, "beyond the end"},
		"negative": {func(offset, length int) map[string]string {
			return map[string]string{"location": "net.onnx.data", "offset": "-1"}
		}, nil, "offset"},
		"length": {func(offset, length int) map[string]string {
			return map[string]string{"location": "net.onnx.data", "length": "7"}
		}, nil, "do not fill"},
		"short": {at("net.onnx.data"), func(_ string, rest []byte) []byte { return rest[:len(rest)-1] }, "beyond the end"},
		"overlapping": {func(offset, length int) map[string]string {
			return map[string]string{"location": "net.onnx.data"}
		}, func(_ string, rest []byte) []byte { return rest[:len(rest)/2] }, "claim more"},
		"link": {at("link"), func(dir string, rest []byte) []byte {
			os.Mkdir(filepath.Join(dir, "model"), 0o755)
			if err := os.Symlink("../secret", filepath.Join(dir, "model", "link")); err != nil {
				t.Skip(err)
			}
			return rest
		}, "link"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := try(t, c.entries, c.mend); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}
