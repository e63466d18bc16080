//go:build unix && !linux

package plugin

import (
	"os"
	"os/exec"
	"syscall"
)

// prepare gives the process a group of its own. Nothing ties it to the life of
// this one but its stdin.
func prepare(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// reap waits for the process to end and kills what it leaves behind. The
// group's number may be free again by then, but is not handed out that quickly.
func reap(p *os.Process) (*os.ProcessState, error) {
	state, err := p.Wait()
	killGroup(p)
	return state, err
}
