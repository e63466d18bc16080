//go:build !cuda

package gorgonia

import (
	"fmt"
	"runtime"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// here is the processor, on which Gorgonia's tape machine runs the operators.
func here() platform {
	return platform{
		kind:        "cpu",
		devices:     []backend.Device{{Name: "cpu", Kind: "cpu", Info: fmt.Sprintf("%d threads, %s", runtime.GOMAXPROCS(0), kernel.ISA())}},
		numerics:    kernel.ISA(),
		determinism: backend.DeterminismThreads,
		note:        "CUDA: not in this build (it needs -tags cuda and cgo)",
	}
}
