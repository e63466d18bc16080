package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// A backend that hangs in a step is ended after --rpc-timeout and started again, one
// that is killed before it has described itself at once, and the results are the same
// bits.
func TestHungAndKilledBackends(t *testing.T) {
	var want string
	for _, once := range []string{"", "train", "describe"} {
		happened := filepath.Join(t.TempDir(), "happened")
		path := fakePlugin(t, fakebackend.DevicesVariable+"=cuda:0", fakebackend.OnceVariable+"="+once+"="+happened)
		out := t.TempDir()
		// Long enough for what does not hang, on any machine; restarts for what seemed to.
		_, said, code := output(t, "reproduce", "testdata/tiny.toml", "--backend", path, "--allow-unlocked", "--out", out, "--rpc-timeout", "15s", "--restarts", "9")
		if code != 0 {
			t.Fatalf("%q: exit %d\n%s", once, code, said)
		}
		got := fingerprint(t, out)
		if want == "" {
			want = got
			continue
		}
		if _, err := os.Stat(happened); err != nil {
			t.Errorf("%q never happened: %v", once, err)
		}
		if got != want {
			t.Errorf("%q: other results", once)
		}
		if once == "train" && !(strings.Contains(said, "hung: nothing came from Train for 15s") && strings.Contains(said, "going on from the last checkpoint")) {
			t.Errorf("said\n%s", said)
		}
	}
}
