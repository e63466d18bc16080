package predict

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// maxFile bounds a model's size; the study's is 57 MB.
const maxFile = 2 << 30

// Segmenter is a network that segments images.
type Segmenter struct {
	Graph     *nn.Graph
	PixelSize float64  // Å, of the images it was trained on; 0 if the file does not say
	Classes   []string // of the output channels, the background first
	Metadata  map[string]string

	period int // heights and widths are multiples of it
	margin int // that tiles overlap by on every side; -1: no tiles
	why    string
}

// Load reads a model from an ONNX file.
func Load(path string) (*Segmenter, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes are more than an ONNX file can have", path, st.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("PK\x03\x04")) {
		return nil, fmt.Errorf("%s is a ZIP file, no ONNX file; of a BioImage Model Zoo package give weights.onnx, which is in it", path)
	}
	m, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// Decode reads a model from the bytes of an ONNX file. Nodes that standardise
// the image are taken out: a tile must not be standardised on its own, so
// images are standardised here.
func Decode(data []byte) (*Segmenter, error) {
	g, err := onnx.Unmarshal(data)
	if err != nil {
		return nil, err
	}
	info, err := onnx.Inspect(data)
	if err != nil {
		return nil, err
	}
	withoutStandardization(g)
	m, err := New(g)
	if err != nil {
		return nil, err
	}
	m.Metadata = info.Metadata
	if s, ok := info.Metadata["refocus.pixel_size_angstrom"]; ok {
		if m.PixelSize, err = strconv.ParseFloat(s, 64); err != nil || !(m.PixelSize > 0) || m.PixelSize > 1e6 {
			return nil, fmt.Errorf("metadata refocus.pixel_size_angstrom = %q is no pixel size", s)
		}
	}
	if s := strings.Split(info.Metadata["refocus.classes"], ", "); len(s) == len(m.Classes) {
		m.Classes = s
	}
	return m, nil
}

// New prepares a network whose input is one standardised channel and whose
// output holds probabilities of two or more classes.
func New(g *nn.Graph) (*Segmenter, error) {
	k := g.Output.Shape[1]
	if g.Input.Shape[1] != 1 || k < 2 || k > 255 {
		return nil, fmt.Errorf("the network has %d input channels and %d output channels; 1 and from 2 to 255 are supported", g.Input.Shape[1], k)
	}
	if last := g.Nodes[len(g.Nodes)-1]; last.Op != "Softmax" || last.Attrs.Int("axis", -1) != 1 || last.Outputs[0] != g.Output.Name {
		return nil, fmt.Errorf("the network ends in node %q (%s), not in a softmax over the classes: its output is no probability", last.Name, last.Op)
	}
	m := &Segmenter{Graph: g}
	for i := range k {
		m.Classes = append(m.Classes, fmt.Sprint("class ", i))
	}
	f, err := g.Field()
	if err != nil {
		// what an image's pixel depends on is not known: no tiles, and sizes
		// have to be tried
		m.margin, m.why = -1, err.Error()
		if m.period, err = tryPeriods(g); err != nil {
			return nil, err
		}
		return m, nil
	}
	m.period = f.Period
	if g.Multiple > 1 && m.period%g.Multiple != 0 {
		m.period = nn.LCM(m.period, g.Multiple)
	}
	m.margin = roundUp(f.Radius, m.period)
	return m, nil
}

// tryPeriods returns the smallest power of two of which every multiple is a
// size that the network takes and returns.
func tryPeriods(g *nn.Graph) (int, error) {
	var err error
	for p := 1; p <= 1024; p *= 2 {
		ok := true
		for i := 8; i < 16 && ok; i++ {
			var s map[string][]int
			if s, err = g.Shapes([]int{1, 1, i * p, (i + 1) * p}); err != nil {
				ok = false
			} else if y := s[g.Output.Name]; y[2] != i*p || y[3] != (i+1)*p {
				err = fmt.Errorf("an image of %d×%d pixels gives an output of %d×%d", i*p, (i+1)*p, y[2], y[3])
				ok = false
			}
		}
		if ok {
			return p, nil
		}
	}
	return 0, fmt.Errorf("found no image sizes that the network takes: %w", err)
}

// withoutStandardization removes leading InstanceNormalizations with unit scale
// and no shift: on an image that is standardised they do nothing.
func withoutStandardization(g *nn.Graph) {
	for len(g.Nodes) > 1 {
		n := g.Nodes[0]
		if n.Op != "InstanceNormalization" || n.Inputs[0] != g.Input.Name || n.Outputs[0] == g.Output.Name {
			return
		}
		scale, shift := g.Tensor(n.Inputs[1]), g.Tensor(n.Inputs[2])
		if scale == nil || shift == nil || len(scale.Data) != 1 || len(shift.Data) != 1 || scale.Data[0] != 1 || shift.Data[0] != 0 {
			return
		}
		for _, other := range g.Nodes[1:] {
			for _, in := range other.Inputs {
				if in == g.Input.Name {
					return // something else looks at the raw image
				}
			}
		}
		g.Nodes = g.Nodes[1:]
		used := map[string]bool{}
		for _, other := range g.Nodes {
			for i, in := range other.Inputs {
				if in == n.Outputs[0] {
					other.Inputs[i] = g.Input.Name
				}
				used[in] = true
			}
		}
		g.Tensors = slices.DeleteFunc(g.Tensors, func(t *nn.Tensor) bool { return !used[t.Name] })
	}
}

// Run predicts one image: a tensor [1,1,h,w] in, probabilities [1,K,h,w] out.
type Run func(ctx context.Context, h, w int, image []float32) ([]float32, error)

func roundUp(n, step int) int { return (n + step - 1) / step * step }
