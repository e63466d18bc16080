package crosscheck

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

// images writes a set of noisy discs.
func images(t *testing.T, name string, n, size int) ImageSet {
	t.Helper()
	rng := random.Stream(1, "crosscheck/"+name)
	x, y := make([]float32, n*size*size), make([]uint8, n*size*size)
	for i := range n {
		cy, cx, radius := rng.IntN(size), rng.IntN(size), float64(size)/4
		for k := range size * size {
			dy, dx := float64(k/size-cy), float64(k%size-cx)
			v := rng.NormFloat64()
			if dy*dy+dx*dx < radius*radius {
				y[i*size*size+k] = 1
				v += 1.5
			}
			x[i*size*size+k] = float32(v)
		}
	}
	b, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, size, size}, Data: x},
		{Name: "labels", Shape: []int{n, size, size}, Data: y},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".safetensors")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return ImageSet{path, hex.EncodeToString(sum[:]), n}
}

// check compares a with b at width 4 on images of 32×32, to the end or to the stage
// that fails first.
func check(t *testing.T, a, b backend.Backend, o Options, first bool) *Certificate {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: 4, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(3, 0)
	c, err := compare(t.Context(), Input{
		A: Subject{Backend: a}, B: Subject{Backend: b}, Oracle: Subject{Backend: cpu.New("test")},
		Graph: g, Train: images(t, "train", 6, 32), Validation: images(t, "validation", 3, 32),
		Loss:    backend.LossOnProbabilities,
		Options: o,
	}, first)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Honest backends that sum in different orders pass, either way round.
func TestHonestBackends(t *testing.T) {
	for _, c := range []struct {
		name      string
		a, b      backend.Backend
		precision string
	}{
		{"cpu against gorgonia", cpu.New("test"), gorgonia.New("test"), backend.Float32},
		{"gorgonia against cpu", gorgonia.New("test"), cpu.New("test"), backend.Float32},
		// Where ε and momentum are decimals, which only float64 can tell.
		{"cpu in float64 against gorgonia", cpu.New("test"), gorgonia.New("test"), backend.Float64},
		{"cpu in half precision against gorgonia", cpu.New("test"), gorgonia.New("test"), backend.Mixed},
	} {
		cert := check(t, c.a, c.b, Options{Steps: 8, Perturbations: 3, Threads: 2, Precision: c.precision}, false)
		var s strings.Builder
		cert.Print(&s)
		if cert.NoBounds != "" {
			t.Errorf("%s: no bounds: %s", c.name, cert.NoBounds)
		}
		if !cert.Pass() {
			t.Errorf("%s:\n%s", c.name, &s)
			n := 0
			for _, k := range cert.Checks {
				if !k.Pass && n < 20 {
					n++
					t.Logf("%+v", k)
				}
			}
		} else {
			t.Logf("%s:\n%s", c.name, &s)
		}
	}
}
