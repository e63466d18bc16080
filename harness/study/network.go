package study

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// Classes are background and particle. [paper]
const Classes = 2

// Network is what is trained: the study's U-Net, or a network from elsewhere.
type Network struct {
	// Width is the number of channels of the first convolution; 64 is the
	// published network of 14.1 million parameters. Even. Of no meaning where ONNX
	// is given. [paper]
	Width int `json:"width"`
	// ONNX is the file of a network to train or to fine-tune in place of the
	// U-Net, relative to the spec's folder. nn.Graph.Retarget says which are
	// suitable and what becomes of their ends.
	ONNX string `json:"onnx,omitempty"`
	// Weights says which of the file's weights a model starts from: WeightsKept,
	// which is the default, WeightsNewHead or WeightsRandom.
	Weights string `json:"weights,omitempty"`
	// Classes are the names of what the network tells apart, the background first;
	// left out, background and particle. [paper]
	Classes []string `json:"classes,omitempty"`
}

// ClassCount is the number of classes.
func (n Network) ClassCount() int { return max(len(n.Classes), Classes) }

// What models of a network from elsewhere start from.
const (
	WeightsKept    = "kept"     // from the file's weights
	WeightsNewHead = "new-head" // likewise, but for the last convolution, whose outputs become the classes and whose weights are drawn
	WeightsRandom  = "random"   // from weights that are drawn, with a new head where the channels are not the classes
)

// UNet are the options of the study's U-Net.
func (n Network) UNet() nn.UNetOptions {
	return nn.UNetOptions{Width: n.Width, Classes: n.ClassCount()}
}

func (n Network) check(c *checker) {
	if k := len(n.Classes); k == 1 || k > maxClasses {
		c.fail(at("network", "classes"), "has %d names, want 2 to %d, the background's first", k, maxClasses)
	}
	distinct(c, at("network", "classes"), n.Classes)
	if n.ONNX != "" {
		c.oneOf(at("network", "weights"), n.Weights, "", WeightsKept, WeightsNewHead, WeightsRandom)
		return
	}
	if n.Weights != "" {
		c.fail(at("network", "weights"), "belongs to network.onnx, which is not given")
	}
	if n.Width%2 != 0 || n.Width < 2 || n.Width > maxWidth {
		c.fail(at("network", "width"), "must be even and between 2 and %d, but is %d", maxWidth, n.Width)
	}
}

// graph is the network that a study trains. The U-Net's has no memory for weights;
// one from elsewhere has the file's, as far as models start from them, and zeros.
func (n Network) graph() (*nn.Graph, error) {
	if n.ONNX == "" {
		return nn.UNetLayout(n.UNet())
	}
	g, _, err := onnx.ReadFile(n.ONNX, onnx.ReadOptions{})
	if err != nil {
		return nil, err
	}
	original := g.Clone()
	if err = g.Retarget(n.ClassCount(), n.Weights == WeightsNewHead); errors.Is(err, nn.ErrHead) && n.Weights == WeightsRandom {
		g = original
		err = g.Retarget(n.ClassCount(), true)
	}
	if err != nil {
		hint := ""
		if errors.Is(err, nn.ErrHead) {
			hint = fmt.Sprintf(" (network.weights = %q does that)", WeightsNewHead)
		}
		return nil, fmt.Errorf("%s: %w%s", n.ONNX, err, hint)
	}
	if n.Weights == WeightsRandom {
		for _, t := range g.Tensors {
			if t.Role != nn.Constant {
				clear(t.Data)
			}
		}
	}
	return g, nil
}

// checkNetwork wants the network of a plan to take the domains' images and to have
// the parts that runs freeze.
func (p *Plan) checkNetwork() error {
	g := p.Network
	for i := range p.Domains {
		size, _ := p.size(&p.Domains[i])
		if _, err := g.Shapes([]int{1, g.Input.Shape[1], size, size}); err != nil {
			return fmt.Errorf("%s: images of %d×%d pixels, those of domain %s: %w", p.Study.Network.ONNX, size, size, p.Domains[i].Name, err)
		}
	}
	groups := p.groups()
	for _, r := range p.Runs {
		switch {
		case r.Frozen == FreezeNone:
		case !slices.Contains(groups, r.Frozen):
			return fmt.Errorf("transfer.frozen: %q is no part of the network; %s has the parameters of %s", r.Frozen, p.Study.Network.ONNX, strings.Join(groups, ", "))
		case len(groups) == 1:
			return errors.New("transfer.frozen: nothing would be left to train")
		}
	}
	return nil
}

// groups lists the groups of the network's parameters.
func (p *Plan) groups() []string {
	var all []string
	for _, t := range p.Network.Parameters() {
		if g := nn.Group(t.Name); !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	slices.Sort(all)
	return all
}

// Width is that of the network, or of the U-Net with as many parameters.
func (p *Plan) Width() int {
	if p.Study.Network.ONNX == "" {
		return p.Study.Network.Width
	}
	const published = 14147650 // parameters at width 64
	return max(1, int(math.Round(64*math.Sqrt(float64(p.Network.Count(""))/published))))
}
