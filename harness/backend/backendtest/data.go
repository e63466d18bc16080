package backendtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// dataset is a set of random images with labels, in memory and in a file.
type dataset struct {
	n, channels, h, w int
	images            []float32
	labels            []uint8
	path, digest      string
}

// dataset makes n images; the seed names them.
func (c *check) dataset(seed uint64, n, channels, h, w, classes int) *dataset {
	d := &dataset{n: n, channels: channels, h: h, w: w}
	r := random.Stream(seed, "conformance data")
	d.images = make([]float32, n*channels*h*w)
	for i := range d.images {
		d.images[i] = float32(r.NormFloat64())
	}
	d.labels = make([]uint8, n*h*w)
	for i := range d.labels {
		d.labels[i] = uint8(r.IntN(classes))
	}
	c.save(d)
	return d
}

// save writes the dataset to a new file.
func (c *check) save(d *dataset) {
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{d.n, d.channels, d.h, d.w}, Data: d.images},
		{Name: "labels", Shape: []int{d.n, d.h, d.w}, Data: d.labels},
	}, nil)
	c.must(err, "encoding a dataset")
	c.files++
	d.path = filepath.Join(c.dir, fmt.Sprintf("%d.safetensors", c.files))
	c.must(os.WriteFile(d.path, data, 0o666), "writing a dataset")
	sum := sha256.Sum256(data)
	d.digest = hex.EncodeToString(sum[:])
}

// separate keeps the values of a graph, on a batch of consecutive samples, from
// where its gradient jumps. Sessions must be opened after it.
//
// A backend whose activations are right in float32, to 3e-5 of a largest element
// of 4 or 5, has every Relu and MaxPool where the reference has it: a value may
// move by 1.5e-4, the difference of two by PoolMargin.
func (c *check) separate(g *nn.Graph, d *dataset, b backend.Batch) {
	size := d.channels * d.h * d.w
	m, err := Separate(g, backend.Tensor{Shape: []int{len(b), d.channels, d.h, d.w}, F32: d.images[b[0].Index*size:][:len(b)*size]})
	c.must(err, "keeping a network's values from where its gradient jumps")
	if m.Relu < PoolMargin/2 {
		c.failf("the suite's own network has a Relu whose input is %g from 0", m.Relu)
	}
	c.save(d)
}

// batch gathers images [N,C,H,W] and labels [N,H,W] as the network sees them, for
// the reference.
func (d *dataset) batch(b backend.Batch) (*reference.Array, []uint8) {
	images := reference.NewArray(len(b), d.channels, d.h, d.w)
	var labels []uint8
	pixels := d.h * d.w
	for i, s := range b {
		for ch := range d.channels {
			at := (s.Index*d.channels + ch) * pixels
			img := d.images[at : at+pixels]
			if s.Dihedral != 0 {
				img = turned(img, d.h, s.Dihedral)
			}
			for q, v := range img {
				images.Data[(i*d.channels+ch)*pixels+q] = float64(v)
			}
		}
		lab := d.labels[s.Index*pixels : (s.Index+1)*pixels]
		if s.Dihedral != 0 {
			lab = turned(lab, d.h, s.Dihedral)
		}
		labels = append(labels, lab...)
	}
	return images, labels
}

// tensor is images of the dataset in the contract's form.
func (d *dataset) tensor(first, n int) backend.Tensor {
	size := d.channels * d.h * d.w
	return backend.Tensor{Shape: []int{n, d.channels, d.h, d.w}, F32: slices.Clone(d.images[first*size : (first+n)*size])}
}

// turned returns the image [H,W] of which numpy.rot90(a.T if op&4 else a, op&3)
// would be the result, built by whole transpositions and quarter turns rather
// than by the contract's index arithmetic.
func turned[T any](a []T, n int, op uint8) []T {
	if op&4 != 0 {
		b := make([]T, len(a))
		for y := range n {
			for x := range n {
				b[y*n+x] = a[x*n+y]
			}
		}
		a = b
	}
	for range op & 3 {
		b := make([]T, len(a)) // a quarter turn counter-clockwise: the last column becomes the first row
		for y := range n {
			for x := range n {
				b[y*n+x] = a[x*n+n-1-y]
			}
		}
		a = b
	}
	return a
}
