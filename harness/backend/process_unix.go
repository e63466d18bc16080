//go:build unix

package backend

import (
	"os"
	"syscall"
)

// killGroup kills the process and everything it started.
func killGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGKILL) }
