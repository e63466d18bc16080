package testnet

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// Random is a U-Net with random weights and statistics: no two tensors, and no
// two channels, are alike.
func Random(t testing.TB, width int) *nn.Graph {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	for _, n := range g.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		for k, in := range n.Inputs[1:] {
			r := random.Stream(2, in)
			for i, d := 0, g.Tensor(in).Data; i < len(d); i++ {
				u := float32(r.Float64())
				d[i] = [...]float32{0.5 + u, u - 0.5, (u - 0.5) / 4, 0.2 + u}[k]
			}
		}
	}
	return g
}

// trained makes the network of Trained, once.
var trained = sync.OnceValues(func() (*nn.Graph, error) {
	const n, size = 16, 32
	images, labels := make([]float32, n*size*size), make([]uint8, n*size*size)
	for i := range n {
		r := random.Stream(4, "discs", uint64(i))
		cy, cx, radius := 8+16*r.Float64(), 8+16*r.Float64(), 4+4*r.Float64()
		for p := range size * size {
			at := i*size*size + p
			images[at] = float32(0.7 * r.NormFloat64())
			if math.Hypot(float64(p/size)-cy, float64(p%size)-cx) < radius {
				images[at] += 2
				labels[at] = 1
			}
		}
	}
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, size, size}, Data: images},
		{Name: "labels", Shape: []int{n, size, size}, Data: labels},
	}, nil)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "onnx-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "discs.safetensors")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return nil, err
	}
	g, err := nn.UNet(nn.UNetOptions{Width: 8, Classes: 2})
	if err != nil {
		return nil, err
	}
	g.Initialize(1, 0)
	ctx := context.Background()
	s, err := cpu.New("test").Open(ctx, g, backend.Options{Loss: backend.LossOnLogits})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.LoadDataset(ctx, "discs", path, fmt.Sprintf("%x", sha256.Sum256(data))); err != nil {
		return nil, err
	}
	r := backend.TrainRequest{LearningRate: 3e-3}
	for i := range 40 {
		var b backend.Batch
		for k := range 4 {
			b = append(b, backend.Sample{Dataset: "discs", Index: (4*i + k) % n, Dihedral: uint8(i % 8)})
		}
		r.Batches = append(r.Batches, b)
	}
	if err := s.Train(ctx, r, func(backend.Step) error { return nil }); err != nil {
		return nil, err
	}
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	f, err := safetensors.Decode(state)
	if err != nil {
		return nil, err
	}
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			if t.Data, err = f.Float32(t.Name); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
})

// Trained is a U-Net of width 8 that has learnt to find discs in noise.
func Trained(t testing.TB) *nn.Graph {
	t.Helper()
	g, err := trained()
	if err != nil {
		t.Fatal(err)
	}
	return g.Clone()
}

// Noise is a batch of images such as Trained has learnt from.
func Noise(shape ...int) backend.Tensor {
	x := backend.Tensor{Shape: shape, F32: make([]float32, shape[0]*shape[1]*shape[2]*shape[3])}
	r := random.Stream(3, "images", uint64(shape[2]))
	for i := range x.F32 {
		x.F32[i] = float32(0.7 * r.NormFloat64())
		if at := i % (shape[2] * shape[3]); math.Hypot(float64(at/shape[3])-14, float64(at%shape[3])-9) < 6 {
			x.F32[i] += 2
		}
	}
	return x
}

// Predict is the CPU backend's answer.
func Predict(t testing.TB, g *nn.Graph, x backend.Tensor) backend.Tensor {
	t.Helper()
	s := Open(t, g)
	y, err := s.Predict(context.Background(), x)
	if err != nil {
		t.Fatal(err)
	}
	return y
}

// Open opens a session of the CPU backend.
func Open(t testing.TB, g *nn.Graph) backend.Session {
	t.Helper()
	s, err := cpu.New("test").Open(context.Background(), g, backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Worst is the largest absolute difference; a NaN counts as infinite.
func Worst(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var d float64
	for i := range a {
		e := math.Abs(float64(a[i]) - float64(b[i]))
		if math.IsNaN(e) {
			e = math.Inf(1)
		}
		d = max(d, e)
	}
	return d
}
