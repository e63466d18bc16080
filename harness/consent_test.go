//go:build linux

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// On a terminal a person is asked before years of training begin, and may say no.
func TestConsent(t *testing.T) {
	script := peers.Program(t, "script", "Debian: bsdutils, for a terminal")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for answer, says := range map[string]string{"no\n": "not begun", "\n": "not begun"} {
		cmd := exec.Command(script, "-qec", "'"+self+"' reproduce defocus --profile paper --out '"+t.TempDir()+"'", "/dev/null")
		cmd.Env = append(os.Environ(), asRefocus+"=1")
		cmd.Stdin = strings.NewReader(answer)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Begin? [y/N]") || !strings.Contains(string(out), says) {
			t.Errorf("%q: %v\n%s", answer, err, out)
		}
	}
}
