package reproduce

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// processUsage is what a process has used so far: seconds of processors, and bytes of
// memory at most.
func processUsage(pid int) (seconds float64, memory int64, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, false
	}
	const ticks = 100 // a second, in what Linux tells programs
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, 0, false
		}
		seconds += float64(n) / ticks
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, false
	}
	if _, after, found := bytes.Cut(status, []byte("VmHWM:")); found {
		if words := bytes.Fields(after); len(words) > 0 {
			kib, _ := strconv.ParseInt(string(words[0]), 10, 64)
			memory = kib << 10
		}
	}
	return seconds, memory, true
}
