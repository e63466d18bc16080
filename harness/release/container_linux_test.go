package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// testContainer runs the executables with nothing but the container's root file
// system around them.
func testContainer(t *testing.T, folder, name string) {
	peers.Need(t, os.Getuid() == 0 && exec.Command("unshare", "--mount", "true").Run() == nil, "only root can change the root folder of a process, and only where it may mount")
	root := t.TempDir()
	unpack(t, filepath.Join(folder, name+"-rootfs.tar.gz"), root)
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"version"}, {"backends", "info", "gorgonia"}, {"backends", "info", "cpu"}} {
		// /proc is what every container runtime mounts.
		script := `mount --bind /proc "$0/proc" && exec chroot "$0" /usr/local/bin/refocus "$@"`
		cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, root}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tested) {
			t.Errorf("in the container, refocus %q: %v\n%s", args, err, out)
		}
	}
}
