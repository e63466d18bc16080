// Package smoke trains a small U-Net for a few steps and reduces the weights to
// a digest: the proof that the CPU backend gives the same bits whatever the
// number of threads, the instruction set, the compiler's target and the
// architecture.
//
// It depends on the engines only, so that its test is quickly built for another
// architecture and run there.
package smoke

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/plugins/cpu/internal/fast"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// Digests of the trained weights, by engine and precision. They change only
// with a decision to change the backend's bits, together with its numeric
// version.
var Digests = map[string]string{
	"fast":        "f7c08447af6dec6cceb97974969201a98e093d301aef424f69fb49819015b7a2",
	"fast-mixed":  "a9e4a56e4352087e8ac5a0656ef5f6ccf93bf3e8ff9517e3b4770bf2feffafb7",
	"plain":       "b83ba3833a63079b0ba4788bd477c4c7baa3111c1fca4f69cf001f20ec53416d",
	"plain-mixed": "8f48006b8848fa661ddaafb746d246f694cfd181ad1a2c664215dbb43b9f9e41",
}

// The run: Steps steps of Batch images of Height × Width; the engines that are
// not what a study runs on by default take the first FewSteps only, since an
// emulated processor is slow.
const (
	Steps    = 20
	FewSteps = 5
	Batch    = 2
	Height   = 16
	Width    = 32
	Rate     = 1e-3
)

// Graph is the network, of width 8.
func Graph() (*nn.Graph, error) {
	g, err := nn.UNet(nn.UNetOptions{Width: 8, Classes: 2})
	if err == nil {
		g.Initialize(1, 0)
	}
	return g, err
}

// Data draws images and labels for n steps.
func Data(n int) ([]float32, []uint8) {
	r := random.Stream(1, "smoke")
	images, labels := make([]float32, n*Batch*Height*Width), make([]uint8, n*Batch*Height*Width)
	for i := range images {
		images[i] = float32(r.Float64() - 0.5)
		if y, x := i/Width%Height-8, i%Width-16; y*y+x*x < 40 {
			labels[i] = 1
			images[i] += float32(x&1) / 2
		}
	}
	return images, labels
}

// Train runs the named entry of Digests and returns its digest.
func Train(name string, threads int) (string, error) {
	g, err := Graph()
	if err != nil {
		return "", err
	}
	o := engine.Options{Options: backend.Options{Threads: threads}.WithDefaults()}
	if name == "plain-mixed" || name == "fast-mixed" {
		o.Precision = backend.Mixed
	}
	var e engine.Engine
	switch name {
	case "plain", "plain-mixed":
		e, err = plain.Compile[float32](g, o)
	case "fast", "fast-mixed":
		e, err = fast.Compile(g, o)
	default:
		err = fmt.Errorf("no run %q", name)
	}
	if err != nil {
		return "", err
	}
	defer e.Close()
	scale := 1.0
	if o.Precision == backend.Mixed {
		scale = 1024
	}
	steps := FewSteps
	if name == "fast" {
		steps = Steps
	}
	images, labels := Data(steps)
	frozen := make([]bool, len(g.Parameters()))
	const pixels = Batch * Height * Width
	for i := range steps {
		b := engine.Batch{Images: backend.Tensor{Shape: []int{Batch, 1, Height, Width}, F32: images[i*pixels:][:pixels]}, Labels: labels[i*pixels:][:pixels]}
		if _, err := e.Gradients(b, frozen, scale, true); err != nil {
			return "", err
		}
		if finite, err := e.Finite(); err != nil || !finite {
			return "", fmt.Errorf("step %d: the gradient is not finite (%v)", i, err)
		}
		if err := e.Adam(i+1, Rate, scale, frozen); err != nil {
			return "", err
		}
	}
	return digest(g, e)
}

func digest(g *nn.Graph, e engine.Engine) (string, error) {
	return Digest(g, func(t *nn.Tensor) ([]float32, error) {
		x := backend.NamedTensor{Name: t.Name, Tensor: backend.Tensor{Shape: t.Shape, F32: make([]float32, t.Len())}}
		return x.F32, e.Get(engine.Value, []backend.NamedTensor{x})
	})
}

// Digest hashes every parameter and statistic as float32, in the graph's order.
func Digest(g *nn.Graph, get func(*nn.Tensor) ([]float32, error)) (string, error) {
	h := sha256.New()
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		d, err := get(t)
		if err != nil {
			return "", err
		}
		for _, v := range d {
			if math.IsNaN(float64(v)) {
				return "", fmt.Errorf("tensor %q holds NaN", t.Name)
			}
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
