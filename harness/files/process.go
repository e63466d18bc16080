package files

import (
	"os"
	"sync"
)

// Process names a process, so that another can tell whether it has ended.
type Process struct {
	Host string `json:"host"` // the machine's name, for people
	PID  int    `json:"pid"`
	// Boot names the running kernel and the numbering that PID belongs to, Start the
	// moment, in the kernel's own count, at which the process began. Both are empty
	// where the system does not tell.
	Boot  string `json:"boot,omitempty"`
	Start string `json:"start,omitempty"`
}

// Self names this process.
var Self = sync.OnceValue(func() Process {
	p := Process{PID: os.Getpid(), Boot: boot()}
	p.Host, _ = os.Hostname()
	if p.Boot != "" {
		p.Start, _ = started(p.PID)
	}
	return p
})

// Ended reports whether the process is known to have ended. Of processes of other
// machines nothing is known.
func (p Process) Ended() bool {
	if !p.Here() {
		return false
	}
	start, alive := started(p.PID)
	return !alive || start != p.Start
}

// Here reports whether the process belongs to the running system that this one
// belongs to, so that Ended knows about it.
func (p Process) Here() bool { return p.Boot != "" && p.Boot == Self().Boot }
