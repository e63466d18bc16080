package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// A backend that is killed before it has described itself is started again, one that
// hangs in a step is ended after --rpc-timeout and started again, and the results are the
// same bits.
func TestHungAndKilledBackend(t *testing.T) {
	var want string
	for _, once := range []string{"", t.TempDir()} {
		path := fakePlugin(t, fakebackend.DevicesVariable+"=cuda:0", fakebackend.OnceVariable+"="+once)
		out := t.TempDir()
		// Long enough for what does not hang, on any machine; restarts for what seemed to.
		_, said, code := output(t, "reproduce", "testdata/tiny.toml", "--backend", path, "--allow-unlocked", "--out", out, "--rpc-timeout", "15s", "--restarts", "9")
		if code != 0 {
			t.Fatalf("exit %d\n%s", code, said)
		}
		if once == "" {
			want = fingerprint(t, out)
			continue
		}
		for _, method := range []string{"describe", "train"} {
			if _, err := os.Stat(filepath.Join(once, method)); err != nil {
				t.Errorf("it never happened: %v", err)
			}
		}
		if !strings.Contains(said, "hung: nothing came from Train for 15s") || !strings.Contains(said, "going on from the last checkpoint") {
			t.Errorf("said\n%s", said)
		}
		if fingerprint(t, out) != want {
			t.Error("other results")
		}
	}
}
