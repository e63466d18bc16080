package plugin

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// prepare gives the process a group of its own and ties it to the life of this
// one. The signal is one that Serve can pass on to the rest of the group.
func prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// reap waits for the process to end, kills what it leaves behind and collects
// it, in this order: until it is collected, nothing else can get its group's
// number.
func reap(p *os.Process) (*os.ProcessState, error) {
	var info unix.Siginfo
	for unix.Waitid(unix.P_PID, p.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	killGroup(p)
	return p.Wait()
}
