package predict

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

// Activations, which turn what a network returns into probabilities.
const (
	Probabilities = "none"       // they are probabilities already
	Softmax       = "softmax"    // of logits of classes that exclude one another
	Sigmoid       = "sigmoid"    // of logits of classes on their own
	Exponential   = "logsoftmax" // of logarithms of probabilities
)

// Activations lists what a caller may insist on.
func Activations() []string { return []string{Softmax, Sigmoid, Exponential, Probabilities} }

// head is the end of a network: how its K channels become the probabilities of
// classes, of which the first is the background.
type head struct {
	activation string
	exclusive  bool // the channels are all classes; otherwise classes beside the background
	note       string
}

// newHead reads the head of a network from its last node, which it removes where
// that is an arg-max. activation is what a caller insists on, "" for nothing.
func newHead(g *nn.Graph, activation string) (head, error) {
	if activation != "" && !slices.Contains(Activations(), activation) {
		return head{}, fmt.Errorf("activation %q: %q are known", activation, Activations())
	}
	cut := withoutArgMax(g)
	last := g.Nodes[len(g.Nodes)-1]
	k := g.Output.Shape[1]
	h := head{activation: activation, exclusive: k > 1}
	channels := last.Attrs.Int("axis", -1) == 1 || last.Attrs.Int("axis", -1) == -3
	ends := last.Outputs[0] == g.Output.Name
	switch {
	case ends && last.Op == "Softmax" && channels && k > 1:
		h.found(Probabilities)
	case ends && last.Op == "LogSoftmax" && channels && k > 1:
		h.found(Exponential)
	case ends && last.Op == "Sigmoid":
		h.found(Probabilities)
		h.exclusive = false
	case k == 1:
		h.found(Sigmoid)
		h.note = fmt.Sprintf("the network ends in %s: its output is taken for a logit, the argument of a sigmoid", last.Op)
	default:
		h.found(Softmax)
		h.note = fmt.Sprintf("the network ends in %s: its %d output channels are taken for logits, the arguments of a softmax", last.Op, k)
	}
	if activation == Sigmoid {
		h.exclusive = false
	}
	if cut && activation == "" {
		h.note = "the network returns classes; their scores are used"
	}
	if activation != "" {
		h.note = ""
	}
	if n := h.classes(k); n < 2 || n > 255 {
		return h, fmt.Errorf("the network has %d output channels; up to 254 are supported", k)
	}
	return h, nil
}

func (h *head) found(activation string) {
	if h.activation == "" {
		h.activation = activation
	}
}

// classes is the number of classes, with the background.
func (h head) classes(channels int) int {
	if h.exclusive {
		return channels
	}
	return channels + 1
}

// withoutArgMax takes a final arg-max over the channels out, and reports whether
// there was one: what it chose from says more.
func withoutArgMax(g *nn.Graph) bool {
	i := len(g.Nodes) - 1
	if i > 0 && g.Nodes[i].Op == "Cast" {
		i--
	}
	n := g.Nodes[i]
	if i == 0 || n.Op != "ArgMax" || n.Attrs.Int("axis", 0) != 1 {
		return false
	}
	scores := n.Inputs[0]
	at := slices.IndexFunc(g.Nodes[:i], func(m *nn.Node) bool { return m.Outputs[0] == scores })
	if at < 0 {
		return false
	}
	shapes, err := g.Shapes(trialShape(g))
	if err != nil {
		return false
	}
	g.Nodes = g.Nodes[:at+1] // what follows computes nothing else
	g.Output.Name = scores
	g.Output.Shape = slices.Clone(g.Output.Shape)
	g.Output.Shape[1] = shapes[scores][1]
	return true
}

// trialShape is a shape of images that the network is likely to take.
func trialShape(g *nn.Graph) []int {
	s := slices.Clone(g.Input.Shape)
	for i, d := range []int{1, 1, 512, 512} {
		if s[i] == 0 {
			s[i] = d
		}
	}
	if m := g.Multiple; m > 1 {
		for i := 2; i < 4; i++ {
			if g.Input.Shape[i] == 0 {
				s[i] = roundUp(s[i], m)
			}
		}
	}
	return s
}

// probabilities turns the network's answer [K,pixels] into the probabilities of
// classes, in place where there are as many.
func (h head) probabilities(y []float32, channels int) []float32 {
	n := len(y) / channels
	switch h.activation {
	case Sigmoid:
		for i, v := range y {
			y[i] = float32(1 / (1 + math.Exp(-float64(v))))
		}
	case Exponential:
		for i, v := range y {
			y[i] = float32(math.Exp(float64(v)))
		}
	case Softmax:
		for p := range n {
			m := float64(y[p])
			for c := 1; c < channels; c++ {
				m = max(m, float64(y[c*n+p]))
			}
			var sum float64
			for c := range channels {
				sum += math.Exp(float64(y[c*n+p]) - m)
			}
			for c := range channels {
				y[c*n+p] = float32(math.Exp(float64(y[c*n+p])-m) / sum)
			}
		}
	}
	if h.exclusive {
		return y
	}
	// classes that may overlap: the background is where none is
	out := make([]float32, n+len(y))
	copy(out[n:], y)
	for p := range n {
		var most float32
		for c := range channels {
			most = max(most, y[c*n+p])
		}
		out[p] = 1 - most
	}
	return out
}
