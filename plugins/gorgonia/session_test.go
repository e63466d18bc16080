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
	g.Initialize(9, 0)
	return g
}

// disc returns n random images of a disc on noise, with labels.
func disc(n, h, w int) ([]float32, []uint8) {
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
	return pixels, labels
}

// save writes a dataset and returns its path and digest.
func save(t testing.TB, n, h, w int, pixels []float32, labels []uint8) (path, digest string) {
	t.Helper()
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

// load gives the session a dataset "d" of n images.
func load(t testing.TB, s backend.Session, n, h, w int) {
	t.Helper()
	pixels, labels := disc(n, h, w)
	path, digest := save(t, n, h, w, pixels, labels)
	if err := s.LoadDataset(context.Background(), "d", path, digest); err != nil {
		t.Fatal(err)
	}
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
