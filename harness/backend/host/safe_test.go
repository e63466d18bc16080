//go:build unix

package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// What others could have put there is refused, with the command that allows it: the
// executable, its folder, a folder above, what a link leads to, the lock file.
func TestOthersPlugins(t *testing.T) {
	root := os.Geteuid() == 0
	for name, c := range map[string]struct {
		harm func(bin, lock string) error
		says string
		root bool // only root can
	}{
		"nothing":          {func(bin, lock string) error { return nil }, "", false},
		"writable file":    {func(bin, lock string) error { return os.Chmod(filepath.Join(bin, plugin.Prefix+"fake"), 0o777) }, "everybody may write to", false},
		"writable folder":  {func(bin, lock string) error { return os.Chmod(bin, 0o777) }, "chmod o-w", false},
		"sticky folder":    {func(bin, lock string) error { return os.Chmod(bin, 0o777|os.ModeSticky) }, "everybody may write to", false},
		"folder above":     {func(bin, lock string) error { return os.Chmod(filepath.Dir(bin), 0o777) }, "everybody may write to", false},
		"sticky above":     {func(bin, lock string) error { return os.Chmod(filepath.Dir(bin), 0o777|os.ModeSticky) }, "", false},
		"writable lock":    {func(bin, lock string) error { return os.Chmod(lock, 0o666) }, LockName + " is not safe", false},
		"another's file":   {func(bin, lock string) error { return os.Chown(filepath.Join(bin, plugin.Prefix+"fake"), 4001, -1) }, "belongs to user 4001", true},
		"another's folder": {func(bin, lock string) error { return os.Chown(bin, 4001, -1) }, "belongs to user 4001", true},
		"a group's folder": {func(bin, lock string) error { return errors.Join(os.Chown(bin, -1, 4001), os.Chmod(bin, 0o775)) }, "group 4001 may write", true},
		"another's lock":   {func(bin, lock string) error { return os.Chown(lock, 4001, -1) }, LockName + " is not safe", true},
		"a link's end": {func(bin, lock string) error {
			other := filepath.Join(filepath.Dir(bin), "other")
			path := filepath.Join(bin, plugin.Prefix+"fake")
			return errors.Join(os.Mkdir(other, 0o755), os.Rename(path, filepath.Join(other, "program")), os.Symlink(filepath.Join(other, "program"), path), os.Chmod(other, 0o777))
		}, "other", false},
	} {
		if c.root && !root {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CONFIG_HOME", t.TempDir())
			t.Setenv("HOME", t.TempDir())
			dir := t.TempDir()
			bin, lock := filepath.Join(dir, "top", "bin"), filepath.Join(dir, LockName)
			path := install(t, bin, "fake")
			program, err := os.ReadFile(path)
			if err = errors.Join(err, os.Remove(path), os.WriteFile(path, program, 0o755)); err != nil { // a file of its own
				t.Fatal(err)
			}
			if err := os.WriteFile(lock, []byte("# nothing\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := c.harm(bin, lock); err != nil {
				t.Fatal(err)
			}
			p := Plugins{Places: []Place{{bin, "bin"}}, LockFile: lock, AllowUnlocked: true, Spec: plugin.Spec{Env: []string{servesPlugin + "=1"}}}
			start := func() error {
				client, err := p.Launch(t.Context(), "fake")
				if err == nil {
					client.Close()
				}
				return err
			}
			err = start()
			var o *OwnershipError
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &o) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "refocus backends allow "+o.Folder) {
				t.Fatalf("got %v, want a refusal that says %q", err, c.says)
			}
			if _, err := Allow(o.Folder); err != nil {
				t.Fatal(err)
			}
			if err := start(); err != nil {
				t.Errorf("allowed: %v", err)
			}
		})
	}
}
