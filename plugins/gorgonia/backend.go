package gorgonia

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
)

// Name of the backend, as in refocus-backend-gorgonia.
const Name = "gorgonia"

// numerics names the arithmetic that numerics.md defines. It changes whenever the bits
// of a result may; they depend on nothing else, neither processor nor GPU.
const numerics = "gorgonia-2"

// New returns the backend. version is the software's version, for people.
func New(version string) backend.Backend {
	return engine.WithMemory(engine.NewBackend(func() (backend.Description, error) { return description(version), nil }, compile), memory)
}

func description(version string) backend.Description {
	devices, notes := gpuDevices()
	runs := operators.Describe("cpu")
	if len(devices) > 0 {
		runs = append(runs, operators.Describe("cuda")...)
	}
	return backend.Description{
		Name:        Name,
		Version:     version,
		Numerics:    numerics,
		Determinism: backend.DeterminismMachine,
		Devices:     append([]backend.Device{processorDevice()}, devices...),
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities, backend.LossOnLogits},
		Operators:   runs,
		Notes:       notes,
	}
}
