package host

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/nn"
)

// servesPlugin makes the test binary a plugin.
const servesPlugin = "REFOCUS_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(servesPlugin) != "" {
		plugin.Serve(fake{})
		return
	}
	os.Exit(m.Run())
}

// fake is a backend that can say what it is.
type fake struct{}

func (fake) Describe(context.Context) (backend.Description, error) {
	return backend.Description{
		Name: "fake", Version: "1.2.3", Numerics: "fake-1", Determinism: backend.DeterminismMachine,
		Devices:    []backend.Device{{Name: "cpu", Kind: "cpu", Info: "imaginary"}},
		Precisions: []string{backend.Float32}, Losses: []string{backend.LossOnProbabilities},
		Operators: []backend.Operator{{Type: "Conv", Device: "cpu", Note: "any"}}, Notes: []string{"answers are made up"},
	}, nil
}

func (fake) Open(context.Context, *nn.Graph, backend.Options) (backend.Session, error) {
	return nil, errors.New("nothing to open")
}

// A built-in backend is this program again, and needs no pin.
func TestBuiltin(t *testing.T) {
	p := Plugins{
		Builtin: map[string][]string{"fake": {"serve-backend", "fake"}}, Places: []Place{}, LockFile: "nowhere",
		Spec: plugin.Spec{Env: []string{servesPlugin + "=1"}},
	}
	c, err := p.Launch(t.Context(), "fake")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if d, err := c.Describe(t.Context()); err != nil || d.Version != "1.2.3" {
		t.Errorf("it is %+v, %v", d, err)
	}
	if _, err := p.Lock(t.Context(), "fake"); err == nil {
		t.Error("it was pinned")
	}
}
