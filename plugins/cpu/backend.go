package cpu

import (
	"fmt"
	"runtime"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// numerics is the version of the bits: it changes with every change of the
// digests in testdata.
const numerics = "cpu-2"

// New returns the CPU backend of the given software version.
func New(version string) backend.Backend {
	return engine.WithMemory(engine.NewBackend(func() (backend.Description, error) { return describe(version) }, compile), memory)
}

func describe(version string) (backend.Description, error) {
	name, err := engineName()
	if err != nil {
		return backend.Description{}, err
	}
	kernels, err := kernel.Select("")
	if err != nil {
		return backend.Description{}, err
	}
	d := backend.Description{
		Name:        "cpu",
		Version:     version,
		Numerics:    numerics,
		Determinism: backend.DeterminismMachine,
		Devices: []backend.Device{{
			Name: "cpu", Kind: "cpu",
			Info: fmt.Sprintf("%d threads, %s", runtime.GOMAXPROCS(0), kernels.Name),
		}},
		Precisions: []string{backend.Float32, backend.Float64, backend.Mixed},
		Losses:     []string{backend.LossOnProbabilities, backend.LossOnLogits},
	}
	d.Notes = append(d.Notes, "networks outside the study's U-Net family, and float64, run on plain loops: correct, but many times slower")
	for _, o := range plain.Operators() {
		d.Operators = append(d.Operators, backend.Operator{Type: o.Type, Device: "cpu", Note: o.Note})
	}
	if name != "" {
		d.Numerics += "-" + name
		d.Notes = append(d.Notes, EngineVariable+" insists on the "+name+" engine")
	}
	return d, nil
}
