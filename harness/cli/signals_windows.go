package cli

import (
	"os"
	"syscall"
)

// stopSignals ask the program to stop: control-C and the end of the console.
func stopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }
