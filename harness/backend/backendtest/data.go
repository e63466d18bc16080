package backendtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
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

// unet is a small network of the study's kind with trained-looking weights:
// every scale, shift and running statistic differs from its initial value.
func unet(width int) *nn.Graph {
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		panic(err) // the width is a constant of this package
	}
	g.Initialize(11, 0)
	roughen(g)
	return g
}

// roughen disturbs all one-dimensional tensors with a role.
func roughen(g *nn.Graph) {
	for _, t := range g.Tensors {
		if t.Role == nn.Constant || len(t.Shape) != 1 {
			continue
		}
		r := random.Stream(12, "conformance weights/"+t.Name)
		for i := range t.Data {
			t.Data[i] += float32(0.3 * (r.Float64() - 0.5)) // a variance stays positive
		}
	}
}

// small is a network around a few nodes: f adds them between the input
// "image" and a value that a 1×1 convolution and a softmax turn into classes.
func small(channels, classes int, f func(b *builder) (out string, outChannels int)) *nn.Graph {
	b := &builder{&nn.Graph{Name: "small", Input: nn.Value{Name: "image", Shape: []int{0, channels, 0, 0}}}}
	x, ch := f(b)
	x = b.conv("head", x, ch, classes, 1, nn.Attrs{"kernel_shape": []int64{1, 1}}, true)
	b.node("softmax", "Softmax", nn.Attrs{"axis": int64(1)}, x)
	b.g.Output = nn.Value{Name: "softmax", Shape: []int{0, classes, 0, 0}}
	b.g.AssignRoles()
	if err := b.g.Check(); err != nil {
		panic(err) // the graph is a constant of this package
	}
	return b.g
}

type builder struct{ g *nn.Graph }

func (b *builder) node(name, op string, attrs nn.Attrs, inputs ...string) string {
	if attrs == nil {
		attrs = nn.Attrs{}
	}
	b.g.Nodes = append(b.g.Nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{name}, Attrs: attrs})
	return name
}

// tensor adds random values of the given spread around a centre.
func (b *builder) tensor(name string, centre, spread float64, shape ...int) string {
	t := &nn.Tensor{Name: name, Shape: shape}
	t.Data = make([]float32, t.Len())
	r := random.Stream(13, "conformance weights/"+name)
	for i := range t.Data {
		t.Data[i] = float32(centre + spread*(2*r.Float64()-1))
	}
	b.g.Tensors = append(b.g.Tensors, t)
	return name
}

// conv adds a convolution from in channels (of one group) to out.
func (b *builder) conv(name, x string, in, out, kernel int, attrs nn.Attrs, bias bool) string {
	inputs := []string{x, b.tensor(name+".weight", 0, 1/math.Sqrt(float64(in*kernel*kernel)), out, in, kernel, kernel)}
	if bias {
		inputs = append(inputs, b.tensor(name+".bias", 0, 0.5, out))
	}
	return b.node(name, "Conv", attrs, inputs...)
}

func (b *builder) norm(name, x string, ch int) string {
	return b.node(name, "BatchNormalization", nn.Attrs{"epsilon": float32(1e-3), "momentum": float32(0.7)}, x,
		b.tensor(name+".weight", 1, 0.4, ch), b.tensor(name+".bias", 0, 0.4, ch),
		b.tensor(name+".running_mean", 0, 0.4, ch), b.tensor(name+".running_var", 1, 0.4, ch))
}

// state is a session's state, decoded.
type state struct {
	raw  []byte
	step string
	data map[string][]float64
}

func (c *check) state(s backend.Session) state {
	raw, err := s.State(c.ctx)
	c.must(err, "State")
	return c.decode(raw)
}

func (c *check) decode(raw []byte) state {
	f, err := safetensors.Decode(raw)
	c.must(err, "decoding a state")
	st := state{raw, f.Metadata["step"], map[string][]float64{}}
	for _, t := range f.Tensors() {
		var v backend.Tensor
		switch t.DType {
		case safetensors.F32:
			v.F32, err = f.Float32(t.Name)
		case safetensors.F64:
			v.F64, err = f.Float64(t.Name)
		default:
			c.failf("the state holds %q as %s, must be F32 or F64", t.Name, t.DType)
		}
		c.must(err, "reading %q of a state", t.Name)
		st.data[t.Name] = v.Float64s()
	}
	return st
}

// encode is a state made of what keep lets through, in float64 if wide.
func (c *check) encode(raw []byte, wide bool, keep func(name string) bool, metadata map[string]string) []byte {
	f, err := safetensors.Decode(raw)
	c.must(err, "decoding a state")
	st := c.decode(raw)
	var ts []safetensors.Tensor
	for _, t := range f.Tensors() {
		if !keep(t.Name) {
			continue
		}
		v := safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: st.data[t.Name]}
		if !wide && t.DType == safetensors.F32 {
			v.Data, err = f.Float32(t.Name)
			c.must(err, "reading %q of a state", t.Name)
		}
		ts = append(ts, v)
	}
	if metadata == nil {
		metadata = f.Metadata
	}
	out, err := safetensors.Encode(ts, metadata)
	c.must(err, "encoding a state")
	return out
}
