package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// testContainer runs the executables with nothing but the container's root file
// system around them.
func testContainer(t *testing.T, folder, name string) {
	peers.Need(t, os.Getuid() == 0, "only root can change the root folder of a process")
	root := t.TempDir()
	unpack(t, filepath.Join(folder, name+"-rootfs.tar.gz"), root)
	for _, args := range [][]string{{"version"}, {"backends", "info", "gorgonia"}, {"backends", "info", "cpu"}} {
		cmd := exec.Command("/usr/local/bin/refocus", args...)
		cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tested) {
			t.Errorf("in the container, refocus %q: %v\n%s", args, err, out)
		}
	}
}
