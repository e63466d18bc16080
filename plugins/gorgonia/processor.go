package gorgonia

import (
	"fmt"
	"runtime"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// processor is the device on which Gorgonia's tape machine runs the operators.
const processor = "cpu"

func processorDevice() backend.Device {
	return backend.Device{Name: processor, Kind: "cpu", Info: fmt.Sprintf("%d threads, %s", runtime.GOMAXPROCS(0), kernel.ISA())}
}
