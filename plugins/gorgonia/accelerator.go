package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// accelerator is a device that runs a network's plans and optimiser instead of
// the processor. It holds the weights, statistics and moments; the network's own
// copies are what they were at first.
type accelerator interface {
	// supports reports what the graph needs that the device lacks.
	supports(g *nn.Graph) error
	// operator makes the node's operator run on the device.
	operator(o *op) G.Op
	// machine compiles a plan.
	machine(b *builder, p *plan) (G.VM, error)
	// read copies what the plan's last run computed for a node.
	read(p *plan, n *G.Node) ([]float32, error)
	// reclaim takes back the memory of a run's values.
	reclaim()
	// commit moves the running statistics by those of the plan's last run.
	commit(p *plan) error
	// step takes an optimiser step with the gradients of the plan's last run.
	step(p *plan, a *adam) error
	// upload makes the device hold the network's arrays.
	upload(e *network) error
	// fetch and store are Get and Set, of many arrays at once.
	fetch(e *network, k engine.Kind, ts []backend.NamedTensor) error
	store(k engine.Kind, ts []backend.NamedTensor) error
	close() error
}
