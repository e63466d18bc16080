package files

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// boot names the kernel since it was started, and the namespace of process numbers.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	numbers, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	if _, alive := started(os.Getpid()); !alive { // another namespace's /proc
		return ""
	}
	return strings.TrimSpace(string(id)) + " " + numbers
}

// started is the moment at which a process began, in the kernel's ticks, and
// whether it runs. One that has ended and was not collected does not.
func started(pid int) (string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", !errors.Is(err, fs.ErrNotExist)
	}
	// The second field is the program's name in parentheses, which may hold anything.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return "", true
	}
	return string(fields[19]), string(fields[0]) != "Z" && string(fields[0]) != "X"
}
