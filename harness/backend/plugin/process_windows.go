package plugin

import (
	"os"
	"os/exec"
	"syscall"
)

// prepare does nothing: a plugin's stdin alone ties it to the life of this
// process.
func prepare(*exec.Cmd) {}

func reap(p *os.Process) (*os.ProcessState, error) { return p.Wait() }

func killGroup(p *os.Process) { p.Kill() }

func killOwnGroup() {}

// stopSignals ask a program to stop.
var stopSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}
