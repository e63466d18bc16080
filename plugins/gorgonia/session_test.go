package gorgonia

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// unet returns an initialised network.
func unet(t testing.TB, width int) *nn.Graph {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(7, 0)
	return g
}

// images writes a dataset of n random images of a disc on noise and returns its
// path and digest.
func images(t testing.TB, n, h, w int) (path, digest string) {
	t.Helper()
	r := random.Stream(3, "images")
	pixels, labels := make([]float32, n*h*w), make([]uint8, n*h*w)
	for i := range pixels {
		y, x := i/w%h, i%w
		pixels[i] = float32(r.NormFloat64())
		if (2*y-h)*(2*y-h)+(2*x-w)*(2*x-w) < h*w/3 {
			labels[i] = 1
			pixels[i]++
		}
	}
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, h, w}, Data: pixels},
		{Name: "labels", Shape: []int{n, h, w}, Data: labels},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "images.safetensors")
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return path, hex.EncodeToString(sum[:])
}

func open(t testing.TB, g *nn.Graph, o backend.Options) backend.Session {
	t.Helper()
	s, err := New("test").Open(context.Background(), g, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// batches of n samples of dataset "d", going through images and symmetries.
func batches(count, n, images int) []backend.Batch {
	var r []backend.Batch
	for i := range count {
		var b backend.Batch
		for j := range n {
			b = append(b, backend.Sample{Dataset: "d", Index: (i*n + j) % images, Dihedral: uint8(i+j) % 8})
		}
		r = append(r, b)
	}
	return r
}

func BenchmarkStep(b *testing.B) {
	path, digest := images(b, 16, 64, 64)
	s := open(b, unet(b, 16), backend.Options{})
	if err := s.LoadDataset(context.Background(), "d", path, digest); err != nil {
		b.Fatal(err)
	}
	r := backend.TrainRequest{Batches: batches(1, 16, 16), LearningRate: 1e-3}
	step := func(backend.Step) error { return nil }
	if err := s.Train(context.Background(), r, step); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Train(context.Background(), r, step); err != nil {
			b.Fatal(err)
		}
	}
}
