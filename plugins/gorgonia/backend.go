package gorgonia

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
)

// Name of the backend, as in refocus-backend-gorgonia.
const Name = "gorgonia"

// numerics changes whenever the bits of a result may change; what else they
// depend on is appended.
const numerics = "gorgonia-1"

// New returns the backend. version is the software's version, for people.
func New(version string) backend.Backend {
	return engine.WithMemory(engine.NewBackend(func() (backend.Description, error) { return description(version), nil }, compile), memory)
}

func description(version string) backend.Description {
	p := here()
	return backend.Description{
		Name:        Name,
		Version:     version,
		Numerics:    numerics + "-" + p.numerics,
		Determinism: p.determinism,
		Devices:     p.devices,
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities, backend.LossOnLogits},
		Operators:   operators.Describe(p.kind),
		Notes:       []string{p.note},
	}
}
