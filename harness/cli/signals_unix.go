//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// stopSignals ask the program to stop: people's, and those with which schedulers warn of
// the end of a job, whatever they were told to send or send by themselves (Slurm and PBS
// SIGTERM, Grid Engine SIGUSR1 and SIGUSR2, LSF SIGUSR2 and SIGXCPU). Under nohup the end
// of the terminal is none.
func stopSignals() []os.Signal {
	s := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGXCPU}
	if !signal.Ignored(syscall.SIGHUP) {
		s = append(s, syscall.SIGHUP)
	}
	return s
}
