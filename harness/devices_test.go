package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// fakePlugin is an executable plugin, a script, of a backend whose devices are those
// of the variables.
func fakePlugin(t *testing.T, variables ...string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("scripts are not executable here")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), plugin.Prefix+"fake")
	script := fmt.Sprintf("#!/bin/sh\nexec env -u %s %s '%s'\n", asRefocus, strings.Join(variables, " "), self)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// devices are those that a store's manifests name.
func devices(t *testing.T, root string) []string {
	t.Helper()
	st, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := st.Runs()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, digest := range digests {
		m, err := st.Manifest(digest)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Backend.Device)
	}
	return all
}

// A study on two devices, one of which is lost again and again, ends with the bits of
// a study on two that hold.
func TestReproduceOnDevices(t *testing.T) {
	var want string
	for _, c := range []struct {
		devices, lose string
		args          []string
		says          string
		on            []string // the devices that trained
	}{
		{"cuda:0,cuda:1,cuda:2", "cuda:0@0", []string{"--devices", "cuda:2,cuda:1", "--jobs-per-device", "2"}, "4 runs at once", []string{"cuda:1: ", "cuda:2: "}},
		{"cuda:0,cuda:1", "cuda:1@2", []string{"--devices", "all"}, "2 runs at once", []string{"cuda:0: "}},
	} {
		path := fakePlugin(t, fakebackend.DevicesVariable+"="+c.devices, fakebackend.LoseVariable+"="+c.lose)
		out := t.TempDir()
		args := append([]string{"reproduce", "testdata/tiny.toml", "--backend", path, "--allow-unlocked", "--threads", "1", "--out", out}, c.args...)
		_, said, code := output(t, args...)
		if code != 0 || !strings.Contains(said, c.says) {
			t.Fatalf("%v: exit %d, no %q in\n%s", c.args, code, c.says, said)
		}
		got := fingerprint(t, out)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%v: other results than on devices that hold", c.args)
		}
		for _, on := range devices(t, out) {
			var known bool
			for _, w := range c.on {
				known = known || strings.HasPrefix(on, w)
			}
			if !known {
				t.Errorf("%v: trained on %q", c.args, on)
			}
		}
	}
}

// Without a device that holds, a study ends with what the backend said.
func TestReproduceWithoutDevices(t *testing.T) {
	path := fakePlugin(t, fakebackend.DevicesVariable+"=cuda:0", fakebackend.LoseVariable+"=cuda:0@1")
	_, said, code := output(t, "reproduce", "testdata/tiny.toml", "--backend", path, "--allow-unlocked", "--out", t.TempDir())
	if code != 1 || !strings.Contains(said, "no device is left to train on: cuda:0 was lost 3 times in a row") || !strings.Contains(said, "step 1 on cuda:0") {
		t.Errorf("exit %d\n%s", code, said)
	}
}

// What does not fit a device is refused with the figures before anything is simulated.
func TestReproduceTooLargeForDevices(t *testing.T) {
	for _, c := range []struct {
		memory string
		args   []string
		says   string
	}{
		{"100000", nil, "device cuda:0: a step of 8 images of 32×32 takes"},
		{"8000000", []string{"--jobs-per-device", "400"}, "400 of them at once"},
	} {
		path := fakePlugin(t, fakebackend.DevicesVariable+"=cuda:0", fakebackend.MemoryVariable+"="+c.memory)
		out := t.TempDir()
		_, said, code := output(t, append([]string{"reproduce", "testdata/tiny.toml", "--backend", path, "--allow-unlocked", "--out", out}, c.args...)...)
		if code != 1 || !strings.Contains(said, c.says) {
			t.Errorf("exit %d\n%s", code, said)
		}
		if made, err := filepath.Glob(filepath.Join(out, "data", "*", "images.safetensors")); err != nil || len(made) > 0 {
			t.Errorf("made %v, %v", made, err)
		}
	}
}
