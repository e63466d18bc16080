package backendtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
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
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, channels, h, w}, Data: d.images},
		{Name: "labels", Shape: []int{n, h, w}, Data: d.labels},
	}, nil)
	c.must(err, "encoding a dataset")
	c.files++
	d.path = filepath.Join(c.dir, fmt.Sprintf("%d.safetensors", c.files))
	c.must(os.WriteFile(d.path, data, 0o666), "writing a dataset")
	sum := sha256.Sum256(data)
	d.digest = hex.EncodeToString(sum[:])
	return d
}

// batch gathers samples as the network sees them, for the reference.
func (d *dataset) batch(b backend.Batch) batch {
	images := newArray(len(b), d.channels, d.h, d.w)
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
				images.data[(i*d.channels+ch)*pixels+q] = float64(v)
			}
		}
		lab := d.labels[s.Index*pixels : (s.Index+1)*pixels]
		if s.Dihedral != 0 {
			lab = turned(lab, d.h, s.Dihedral)
		}
		labels = append(labels, lab...)
	}
	return batch{images, labels}
}

// tensor is images of the dataset in the contract's form.
func (d *dataset) tensor(first, n int) backend.Tensor {
	size := d.channels * d.h * d.w
	return backend.Tensor{Shape: []int{n, d.channels, d.h, d.w}, F32: slices.Clone(d.images[first*size : (first+n)*size])}
}
