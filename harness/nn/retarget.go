package nn

import (
	"errors"
	"fmt"
	"slices"
)

// NewHead is the group of parameters of a head that Retarget has made.
const NewHead = "new_head"

// ErrHead says that a network is suitable but for its last convolution.
var ErrHead = errors.New("its last convolution has to be replaced")

// Retarget makes of a network from elsewhere one that is trained as UNet's is: it
// takes grey images, any number at once, and ends in a Softmax over the classes.
//
// A network of several input channels is given the grey image in each. A final
// Softmax, LogSoftmax, Sigmoid or ArgMax over the channels gives way to the
// Softmax; one channel, whose sigmoid is the probability of the second class,
// becomes the logits −z/2 and z/2, of which the softmax is the same. With newHead
// the last convolution gives way to one with as many outputs as there are classes;
// its parameters are zero until they are drawn (InitializeGroup).
//
// It refuses networks whose output has another size than the image, and those
// whose channels are not the classes (ErrHead).
func (g *Graph) Retarget(classes int, newHead bool) error {
	if len(g.Input.Shape) != 4 || len(g.Nodes) == 0 {
		return fmt.Errorf("network %q has an input of shape %v and %d nodes", g.Name, g.Input.Shape, len(g.Nodes))
	}
	if err := g.greyInput(); err != nil {
		return err
	}
	if err := g.anyBatch(); err != nil {
		return err
	}
	scores, activation := g.scores()
	g.Output.Name = scores
	g.prune()
	shape, err := g.trial(1)
	if err != nil {
		return err
	}
	channels := shape[scores][1]
	switch {
	case newHead:
		err = g.replaceHead(scores, classes)
	case channels == 1 && classes == 2 && activation != "Softmax" && activation != "LogSoftmax":
		err = g.doubleHead(scores)
	case channels != classes:
		err = fmt.Errorf("the network has %d output channels, not one for each of %d classes: %w", channels, classes, ErrHead)
	case activation == "Sigmoid":
		err = fmt.Errorf("the network ends in a sigmoid of %d channels, classes that may overlap: %w", channels, ErrHead)
	}
	if err != nil {
		return err
	}
	name := g.fresh(Probabilities)
	g.Nodes = append(g.Nodes, &Node{g.freshNode("softmax"), "Softmax", []string{scores}, []string{name}, Attrs{"axis": int64(1)}})
	g.Output = Value{name, []int{0, classes, g.Output.Shape[2], g.Output.Shape[3]}}
	g.prune()
	g.AssignRoles()
	if len(g.Parameters()) == 0 {
		return fmt.Errorf("the network has no parameters to train")
	}
	if err := g.Check(); err != nil {
		return err
	}
	if shape, err = g.trial(1); err != nil {
		return err
	}
	if in, out := shape[g.Input.Name], shape[name]; !slices.Equal(out, []int{in[0], classes, in[2], in[3]}) {
		return fmt.Errorf("the network turns images of %d×%d pixels into %d×%d; for training it must keep the size", in[2], in[3], out[2], out[3])
	}
	return nil
}

// trialSize is a size of images that networks are likely to take.
const trialSize = 512

// trial infers the shapes for n images of a size that the network takes.
func (g *Graph) trial(n int) (map[string][]int, error) {
	s := []int{n, g.Input.Shape[1], g.Input.Shape[2], g.Input.Shape[3]}
	for i := 2; i < 4; i++ {
		if m := max(1, g.Multiple); s[i] == 0 {
			s[i] = (trialSize + m - 1) / m * m
		}
	}
	return g.Shapes(s)
}

// greyInput gives the network one input channel. Where only convolutions look at
// the image, their weights for its equal channels are summed.
func (g *Graph) greyInput() error {
	c := g.Input.Shape[1]
	if c == 1 {
		return nil
	}
	if c < 1 {
		return fmt.Errorf("network %q has an input of shape %v, not of a fixed number of channels", g.Name, g.Input.Shape)
	}
	g.Input.Shape = slices.Clone(g.Input.Shape)
	g.Input.Shape[1] = 1
	var weights []*Tensor
	for _, n := range g.Nodes {
		if !slices.Contains(n.Inputs, g.Input.Name) {
			continue
		}
		w := (*Tensor)(nil)
		if n.Op == "Conv" && n.Attrs.Int("group", 1) == 1 {
			w = g.Tensor(n.Inputs[1])
		}
		if w == nil || g.readers(w.Name) > 1 || slices.Contains(weights, w) {
			name := g.fresh(g.Input.Name + ".channels")
			g.rename(g.Input.Name, name)
			in := slices.Repeat([]string{g.Input.Name}, c)
			g.Nodes = slices.Insert(g.Nodes, 0, &Node{g.freshNode(name), "Concat", in, []string{name}, Attrs{"axis": int64(1)}})
			return nil
		}
		weights = append(weights, w)
	}
	for _, w := range weights {
		area := w.Shape[2] * w.Shape[3]
		data := make([]float32, w.Shape[0]*area)
		for i := range data {
			var sum float64
			for j := range c {
				sum += float64(w.Data[(i/area*c+j)*area+i%area])
			}
			data[i] = float32(sum)
		}
		w.Shape, w.Data = []int{w.Shape[0], 1, w.Shape[2], w.Shape[3]}, data
	}
	return nil
}

// anyBatch lets the network take any number of images.
func (g *Graph) anyBatch() error {
	if g.Input.Shape[0] == 0 {
		return nil
	}
	fixed := g.Input.Shape[0]
	g.Input.Shape = slices.Clone(g.Input.Shape)
	g.Input.Shape[0] = 0
	for _, n := range []int{1, 3} {
		s, err := g.trial(n)
		if err != nil || s[g.Output.Name][0] != n {
			return fmt.Errorf("the network takes %d images at once, no other number; export it with a dynamic batch", fixed)
		}
	}
	return nil
}

// scores is the value that the network's last activation is computed from, and
// the operator of that activation, "" without one.
func (g *Graph) scores() (value, activation string) {
	value = g.Output.Name
	for {
		n := g.producer(value)
		if n == nil || len(n.Inputs) == 0 || g.Tensor(n.Inputs[0]) != nil {
			return value, activation
		}
		axis := n.Attrs.Int("axis", -1)
		switch {
		case activation != "":
			return value, activation
		case n.Op == "Cast", n.Op == "ArgMax" && (n.Attrs.Int("axis", 0) == 1 || n.Attrs.Int("axis", 0) == -3):
		case n.Op == "Sigmoid", (n.Op == "Softmax" || n.Op == "LogSoftmax") && (axis == 1 || axis == -3):
			activation = n.Op
		default:
			return value, activation
		}
		value = n.Inputs[0]
	}
}

// head is the convolution that computes the scores, with nothing between them but
// resizing, and nobody else who reads what it computes.
func (g *Graph) head(scores string) (*Node, error) {
	value := scores
	for {
		n := g.producer(value)
		if n == nil || g.readers(value) > 1 {
			return nil, fmt.Errorf("the network's last convolution is not found: its output %q is read elsewhere, too", value)
		}
		switch {
		case n.Op == "Conv" && n.Attrs.Int("group", 1) == 1 && g.Tensor(n.Inputs[1]) != nil:
			return n, nil
		case n.Op == "Resize":
			value = n.Inputs[0]
		default:
			return nil, fmt.Errorf("node %q (%s): the network's last convolution is needed here", n.Name, n.Op)
		}
	}
}

// replaceHead puts a convolution of the same kernel in place of the last one.
func (g *Graph) replaceHead(scores string, classes int) error {
	n, err := g.head(scores)
	if err != nil {
		return err
	}
	old := g.Tensor(n.Inputs[1]).Shape
	n.Inputs = []string{n.Inputs[0]}
	g.prune() // which frees the names of a head that was made before
	for _, t := range []*Tensor{
		{Name: NewHead + ".weight", Shape: []int{classes, old[1], old[2], old[3]}},
		{Name: NewHead + ".bias", Shape: []int{classes}},
	} {
		if t.Name != g.fresh(t.Name) {
			return fmt.Errorf("the network has a value %q that is not its last convolution's", t.Name)
		}
		t.Data = make([]float32, t.Len())
		g.Tensors = append(g.Tensors, t)
		n.Inputs = append(n.Inputs, t.Name)
	}
	return nil
}

// doubleHead makes of the logit z two, −z/2 and z/2.
func (g *Graph) doubleHead(scores string) error {
	n, err := g.head(scores)
	if err != nil {
		return err
	}
	for _, name := range n.Inputs[1:] {
		t := g.Tensor(name)
		if t == nil || g.readers(name) > 1 {
			return fmt.Errorf("node %q (%s): its tensor %q is no constant of its own", n.Name, n.Op, name)
		}
		data := make([]float32, 0, 2*len(t.Data))
		for _, half := range []float32{-0.5, 0.5} {
			for _, v := range t.Data {
				data = append(data, half*v)
			}
		}
		t.Data, t.Shape = data, slices.Clone(t.Shape)
		t.Shape[0] = 2
	}
	return nil
}

func (g *Graph) producer(value string) *Node {
	for _, n := range g.Nodes {
		if slices.Contains(n.Outputs, value) {
			return n
		}
	}
	return nil
}

// readers counts how often a value is read by nodes.
func (g *Graph) readers(value string) int {
	k := 0
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			if in == value {
				k++
			}
		}
	}
	return k
}

// rename lets all readers of a value read another.
func (g *Graph) rename(from, to string) {
	for _, n := range g.Nodes {
		for i, in := range n.Inputs {
			if in == from {
				n.Inputs[i] = to
			}
		}
	}
}

// fresh is the name, with underscores where the graph has a value of that name.
func (g *Graph) fresh(name string) string {
	taken := map[string]bool{g.Input.Name: true}
	for _, t := range g.Tensors {
		taken[t.Name] = true
	}
	for _, n := range g.Nodes {
		for _, out := range n.Outputs {
			taken[out] = true
		}
	}
	for taken[name] {
		name += "_"
	}
	return name
}

// freshNode is fresh for names of nodes.
func (g *Graph) freshNode(name string) string {
	for slices.ContainsFunc(g.Nodes, func(n *Node) bool { return n.Name == name }) {
		name += "_"
	}
	return name
}

// prune removes the nodes and tensors that the output does not need.
func (g *Graph) prune() {
	need := map[string]bool{g.Output.Name: true}
	var kept []*Node
	for _, n := range slices.Backward(g.Nodes) {
		if slices.ContainsFunc(n.Outputs, func(s string) bool { return need[s] }) {
			for _, in := range n.Inputs {
				need[in] = true
			}
			kept = append(kept, n)
		}
	}
	slices.Reverse(kept)
	g.Nodes = kept
	g.Tensors = slices.DeleteFunc(g.Tensors, func(t *Tensor) bool { return !need[t.Name] })
}
