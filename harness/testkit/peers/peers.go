package peers

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Need skips the test when ok is false, or fails it where every peer is
// required. reason says what is missing and how to get it.
func Need(t testing.TB, ok bool, reason string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("REFOCUS_PEERS") == "require" {
		t.Fatalf("REFOCUS_PEERS=require, but %s", reason)
	}
	t.Skip(reason)
}

// Python returns the interpreter that can import the modules, which Debian's
// packages provide (python3-torch, python3-opencv, python3-onnx, …). It tries
// $REFOCUS_PYTHON, then /usr/bin/python3, then python3 on the path.
func Python(t testing.TB, modules ...string) string {
	t.Helper()
	code := ""
	for _, m := range modules {
		code += "import " + m + "\n"
	}
	for _, p := range []string{os.Getenv("REFOCUS_PYTHON"), "/usr/bin/python3", "python3"} {
		if p == "" {
			continue
		}
		path, err := exec.LookPath(p)
		if err != nil {
			continue
		}
		if exec.Command(path, "-c", code).Run() == nil {
			return path
		}
	}
	Need(t, false, "no python3 that can import "+strings.Join(modules, ", ")+" (Debian: python3-torch, python3-opencv, python3-onnx, …)")
	return ""
}

// Program returns the path of an executable, for example "node" or
// "qemu-aarch64-static".
func Program(t testing.TB, name, hint string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	Need(t, err == nil, name+" is not on the path ("+hint+")")
	return path
}
