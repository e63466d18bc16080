//go:build linux

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/refocus-em/refocus/harness/cli"
)

// ramDisk mounts an empty file system with room for so many KiB.
func ramDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Skipf("mounting a small file system (as root only): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Wherever the disk becomes full, the harness says so and stops at once, what it
// has published is whole, and with more room the same command goes on. A store
// that cannot be written to any more can be read.
func TestFullDisk(t *testing.T) {
	want := fingerprint(t, reproduceTiny(t))
	disk := ramDisk(t, 80)
	remount := func(flags uintptr, options string) {
		t.Helper()
		if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|flags, options); err != nil {
			t.Fatal(err)
		}
	}
	reproduce := append(tinyArgs[:len(tinyArgs):len(tinyArgs)], disk)
	fails := func(args []string, during, why string) {
		t.Helper()
		_, errs, code := output(t, args...)
		if code != cli.ExitFailed || !strings.Contains(errs, during) || !strings.Contains(errs, why) || !strings.Contains(errs, disk) {
			t.Errorf("exit %d, said, without %q, %q or %s,\n%s", code, during, why, disk, errs)
		}
		if said, errs, code := output(t, "verify", "--out", disk); code != 0 {
			t.Errorf("after a failure %s, verify: exit %d\n%s%s", during, code, said, errs)
		}
		if half := temporary(t, disk); len(half) > 0 {
			t.Errorf("after a failure %s there are half-written files: %v", during, half)
		}
	}
	succeeds := func(args ...string) {
		t.Helper()
		if _, errs, code := output(t, args...); code != 0 {
			t.Errorf("%s: exit %d\n%s", args[0], code, errs)
		}
	}

	const full = "no space left on device"
	fails(reproduce, "structure", full)
	remount(0, "size=100m")
	succeeds("data", "testdata/tiny.toml", "--out", disk)
	leave := func(kib int64) {
		t.Helper()
		var room syscall.Statfs_t
		if err := syscall.Statfs(disk, &room); err != nil {
			t.Fatal(err)
		}
		remount(0, fmt.Sprintf("size=%dk", int64(room.Blocks-room.Bfree)*room.Bsize>>10+kib))
	}
	leave(90)
	fails(reproduce, "runs", full)
	remount(0, "size=100m")
	succeeds(reproduce...)
	if fingerprint(t, disk) != want {
		t.Error("other results")
	}

	if err := os.RemoveAll(filepath.Join(disk, "reports")); err != nil {
		t.Fatal(err)
	}
	leave(100)
	fails(reproduce, "report", full)
	remount(0, "size=100m")
	succeeds("report", "testdata/tiny.toml", "--out", disk)

	remount(syscall.MS_RDONLY, "")
	const denied = "read-only file system"
	succeeds("status", "testdata/tiny.toml", "--out", disk)
	succeeds("export", "best", "--series", "testdata/tiny.toml", "--out", disk, "-o", filepath.Join(t.TempDir(), "model.onnx"))
	const refused = "is not one to write to" // and not only after the work
	fails(reproduce, refused, denied)
	fails([]string{"data", "testdata/tiny.toml", "--out", disk}, refused, denied)
	other := filepath.Join(t.TempDir(), "other.toml") // has everything to do
	b, err := os.ReadFile("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte(strings.Replace(string(b), "seed  = 7", "seed  = 8", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	fails([]string{"reproduce", other, "--out", disk}, refused, denied)
}

// temporary lists the files under names that only stand for half-written ones.
func temporary(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.Contains(d.Name(), ".tmp-") || strings.HasPrefix(d.Name(), ".export-") || strings.HasSuffix(d.Name(), ".new")) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
