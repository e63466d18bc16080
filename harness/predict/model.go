package predict

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// Segmenter is a network that segments images.
type Segmenter struct {
	Graph     *nn.Graph
	PixelSize float64  // Å, of the images it was trained on; 0 if the file does not say
	Classes   []string // the background first
	Metadata  map[string]string
	// Preparation of an image before the network sees it.
	Preparation Preparation
	// Notes say what was decided about the model, for the user.
	Notes []string

	head   head
	grid   grid
	margin int // that tiles overlap by on every side; -1: not known
	why    string
}

// LoadOptions says what a model's file leaves open, or says otherwise.
type LoadOptions struct {
	Output      string // the output to use, "" for the first
	Activation  string // one of Activations, "" as the network's last node says
	Preparation string // as ParsePreparation reads it, "" as the model says, else standardize
}

// Load reads a model from an ONNX file, with data in files beside it if there
// are, or from a package of the BioImage Model Zoo: a ZIP file or its folder.
// The Notes say what was decided.
func Load(path string, o LoadOptions) (*Segmenter, error) {
	d, err := describe(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer d.close()
	g, info, err := d.read(path, onnx.ReadOptions{Output: o.Output})
	if err != nil {
		return nil, err
	}
	if len(info.Outputs) > 1 && o.Output == "" {
		d.notes = append(d.notes, fmt.Sprintf("of the outputs %q the first is used", info.Outputs))
	}
	m, err := d.segmenter(g, info, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// segmenter puts together what the file, its description and the user say.
func (d *description) segmenter(g *nn.Graph, info onnx.Info, o LoadOptions) (*Segmenter, error) {
	standardizes := withoutStandardization(g)
	if o.Activation == "" {
		o.Activation = d.activation
	}
	m, err := newSegmenter(g, o.Activation)
	if err != nil {
		return nil, err
	}
	m.Metadata = info.Metadata
	m.PixelSize = d.pixelSize
	if s, ok := info.Metadata["refocus.pixel_size_angstrom"]; ok {
		if m.PixelSize, err = strconv.ParseFloat(s, 64); err != nil || !(m.PixelSize > 0) || m.PixelSize > 1e6 {
			return nil, fmt.Errorf("metadata refocus.pixel_size_angstrom = %q is no pixel size", s)
		}
	}
	names := strings.Split(info.Metadata["refocus.classes"], ", ")
	if len(names) != len(m.Classes) && len(d.classes) == len(m.Classes) {
		names = d.classes
	}
	if len(names) == len(m.Classes) {
		m.Classes = names
	}
	_, ours := info.Metadata["refocus.classes"] // of a refocus that did not write how
	why := ""
	switch {
	case o.Preparation != "":
		m.Preparation, err = ParsePreparation(o.Preparation)
		why = "as asked for"
	case standardizes:
		why = "instead of by the network's first node, tile by tile"
	case d.preparation != nil:
		m.Preparation, why = *d.preparation, "as the package says"
	case info.Metadata["refocus.normalization"] != "":
		m.Preparation, err = ParsePreparation(info.Metadata["refocus.normalization"])
		why = "as the model says"
	case ours:
		why = "as refocus trains"
	default:
		why = "the model does not say how; --normalize does"
	}
	if err != nil {
		return nil, err
	}
	if n := len(m.Preparation.channels); n > 0 && n != m.channels() {
		return nil, fmt.Errorf("the preparation %s is for %d channels, the network has %d", m.Preparation, n, m.channels())
	}
	m.Notes = append(m.Notes, fmt.Sprintf("preparation of images: %s (%s)", m.Preparation, why))
	if m.channels() > 1 {
		m.Notes = append(m.Notes, fmt.Sprintf("the grey image is given to each of %d input channels", m.channels()))
	}
	if m.grid.h > 0 {
		note := fmt.Sprintf("the network takes images of %d×%d pixels only: they are the tiles", m.grid.h, m.grid.w)
		if m.margin < 0 || m.overlap(m.grid.h) != m.margin || m.overlap(m.grid.w) != m.margin {
			note += ", and small ones for what a pixel depends on: their seams may show"
		}
		m.Notes = append(m.Notes, note)
	}
	if m.head.note != "" {
		m.Notes = append(m.Notes, m.head.note)
	}
	m.Notes = append(m.Notes, d.notes...)
	return m, nil
}

// New prepares a network whose channels see one standardised image.
func New(g *nn.Graph) (*Segmenter, error) { return newSegmenter(g, "") }

// maxChannels bounds how often an image is repeated.
const maxChannels = 64

func newSegmenter(g *nn.Graph, activation string) (*Segmenter, error) {
	if c := g.Input.Shape[1]; c < 1 || c > maxChannels {
		return nil, fmt.Errorf("the network has %d input channels; 1 to %d are supported", c, maxChannels)
	}
	if b := g.Input.Shape[0]; b > maxChannels {
		return nil, fmt.Errorf("the network takes %d images at once; up to %d are supported", b, maxChannels)
	}
	m := &Segmenter{Graph: g, Preparation: Standardized()}
	var err error
	if m.head, err = newHead(g, activation); err != nil {
		return nil, err
	}
	for i := range m.head.classes(g.Output.Shape[1]) {
		m.Classes = append(m.Classes, fmt.Sprint("class ", i))
	}
	if m.grid, err = newGrid(g); err != nil {
		return nil, err
	}
	f, err := g.Field()
	if err != nil { // what an image's pixel depends on is not known
		m.margin, m.why = -1, err.Error()
		return m, nil
	}
	m.margin = roundUp(f.Radius, m.grid.period)
	return m, nil
}

func (m *Segmenter) channels() int { return m.Graph.Input.Shape[1] }

// withoutStandardization removes leading InstanceNormalizations with unit scale
// and no shift, and reports whether there were any: a tile must not be
// standardised on its own, and on a standardised image they do nothing.
func withoutStandardization(g *nn.Graph) (removed bool) {
	for len(g.Nodes) > 1 {
		n := g.Nodes[0]
		if n.Op != "InstanceNormalization" || n.Inputs[0] != g.Input.Name || n.Outputs[0] == g.Output.Name {
			return removed
		}
		scale, shift := g.Tensor(n.Inputs[1]), g.Tensor(n.Inputs[2])
		if scale == nil || shift == nil || len(scale.Data) != 1 || len(shift.Data) != 1 || scale.Data[0] != 1 || shift.Data[0] != 0 {
			return removed
		}
		for _, other := range g.Nodes[1:] {
			for _, in := range other.Inputs {
				if in == g.Input.Name {
					return removed // something else looks at the raw image
				}
			}
		}
		removed = true
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
	return removed
}

// Run runs the network: images of the given shape [N,C,h,w] in, what the graph's
// output holds out.
type Run func(ctx context.Context, shape []int, images []float32) ([]float32, error)

func roundUp(n, step int) int { return (n + step - 1) / step * step }
