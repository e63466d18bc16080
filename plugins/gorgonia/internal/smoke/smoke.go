// Package smoke trains a small U-Net for a few steps and reduces its weights and
// statistics to a digest: the proof that the Gorgonia backend gives the same bits
// whatever the processor, its instruction set, the number of threads, and on a GPU.
//
// It knows the contract alone, so that its test is quickly built for another
// architecture and run there.
package smoke

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// Digests after so many steps. They change only with a decision to change the
// backend's bits, together with the name of its numerics.
var Digests = map[int]string{
	1:  "833a055e3ec508ceb469af89e993dda40a95fe4b4ab4bd39f1359f857a8b1030",
	20: "c703a7ee069923f402765b3c74cbd6ffe88df953c340fc688c7dc361f7c8e467",
}

const (
	batch  = 2
	height = 16
	width  = 32
	rate   = 1e-3
	images = 16
)

// Train takes some steps on a device of the backend and returns the digest of what they
// make of the network. dir is for the data set's file.
func Train(ctx context.Context, b backend.Backend, o backend.Options, steps int, dir string) (string, error) {
	g, err := nn.UNet(nn.UNetOptions{Width: 8, Classes: 2})
	if err != nil {
		return "", err
	}
	g.Initialize(1, 0)
	path, digest, err := data(dir)
	if err != nil {
		return "", err
	}
	s, err := b.Open(ctx, g, o)
	if err != nil {
		return "", err
	}
	defer s.Close()
	if err := s.LoadDataset(ctx, "smoke", path, digest); err != nil {
		return "", err
	}
	r := backend.TrainRequest{LearningRate: rate}
	for i := range steps {
		var samples backend.Batch
		for j := range batch {
			samples = append(samples, backend.Sample{Dataset: "smoke", Index: (i*batch + j) % images})
		}
		r.Batches = append(r.Batches, samples)
	}
	if err := s.Train(ctx, r, func(backend.Step) error { return nil }); err != nil {
		return "", err
	}
	state, err := s.State(ctx)
	if err != nil {
		return "", err
	}
	return digestOf(g, state)
}

// data writes images of a disc with a pattern that tells it from noise.
func data(dir string) (path, digest string, err error) {
	r := random.Stream(1, "smoke")
	pixels, labels := make([]float32, images*height*width), make([]uint8, images*height*width)
	for i := range pixels {
		pixels[i] = float32(r.Float64() - 0.5)
		if y, x := i/width%height-8, i%width-16; y*y+x*x < 40 {
			labels[i] = 1
			pixels[i] += float32(x&1) / 2
		}
	}
	file, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{images, 1, height, width}, Data: pixels},
		{Name: "labels", Shape: []int{images, height, width}, Data: labels},
	}, nil)
	if err != nil {
		return "", "", err
	}
	path = filepath.Join(dir, "smoke.safetensors")
	sum := sha256.Sum256(file)
	return path, hex.EncodeToString(sum[:]), os.WriteFile(path, file, 0o666)
}

// digestOf hashes every parameter and statistic, in the graph's order, and the moments
// of parameters.
func digestOf(g *nn.Graph, state []byte) (string, error) {
	f, err := safetensors.Decode(state)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, prefix := range []string{"", backend.FirstMoment, backend.SecondMoment} {
		for _, t := range g.Tensors {
			if t.Role == nn.Constant || t.Role == nn.Statistic && prefix != "" {
				continue
			}
			values, err := f.Float32(prefix + t.Name)
			if err != nil {
				return "", err
			}
			for _, v := range values {
				if v != v {
					return "", fmt.Errorf("tensor %q holds NaN", prefix+t.Name)
				}
				h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
