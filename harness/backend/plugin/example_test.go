package plugin_test

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/nn"
)

// mine is a backend that has nothing to offer yet.
type mine struct{}

func (mine) Describe(context.Context) (backend.Description, error) {
	return backend.Description{Name: "mine", Version: "0.1.0", Numerics: "mine-1"}, nil
}

func (mine) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	return nil, fmt.Errorf("node %q (%s): %w", g.Nodes[0].Name, g.Nodes[0].Op, backend.ErrUnsupported)
}

// The whole main function of a plugin, an executable called
// refocus-backend-mine.
func ExampleServe() {
	main := func() { plugin.Serve(mine{}) }
	_ = main
}

// overflowing is a session whose losses are no numbers.
type overflowing struct{ backend.Session }

func (overflowing) Train(_ context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	for i := range r.Batches {
		if err := progress(backend.Step{Batch: i, Loss: math.NaN()}); err != nil {
			return err
		}
	}
	return nil
}

// A plugin's own tests can look at its sessions with the harness's eyes.
func ExampleChecked() {
	network, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	s := plugin.Checked(overflowing{}, "mine", network, backend.Options{}.WithDefaults())
	err = s.Train(context.Background(), backend.TrainRequest{
		Batches:      []backend.Batch{{{Dataset: "training", Index: 0}, {Dataset: "training", Index: 1}}},
		LearningRate: 1e-3,
	}, func(backend.Step) error { return nil })
	fmt.Println(err)
	// Output:
	// backend mine gave a wrong answer to Train: the loss of batch 0 is NaN
}
