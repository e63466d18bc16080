package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/store"
)

// What has failed is listed with the reason, its log can be read, and it can be
// tried again.
func TestFailuresAreSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	for range 3 {
		c, err := st.Claim(digest)
		if err != nil {
			t.Fatal(err)
		}
		c.Update(func(a *store.Attempt) { a.ID, a.Study, a.Total = "transfer_x", "tiny", 12 })
		fmt.Fprintln(c.Log(), "the backend says \x1b[31mred\x1b[0m")
		c.Fail(errors.New("out of luck"))
		c.Release()
	}
	for _, word := range []string{digest, digest[:7], "transfer_x"} {
		stdout, stderr, code := output(t, "logs", word, "--out", dir)
		for _, want := range []string{"transfer_x", "attempt 3 of 3", "failed", "out of luck", "the backend says"} {
			if code != 0 || !strings.Contains(stdout, want) {
				t.Errorf("logs %s: exit %d, without %q: %s%s", word, code, want, stdout, stderr)
			}
		}
		if strings.Contains(stdout, "\x1b") {
			t.Error("escape codes of a backend's pass into the terminal")
		}
	}
	if stdout, _, _ := output(t, "logs", digest, "--attempt", "1", "--out", dir); !strings.Contains(stdout, "attempt 1 of 3") {
		t.Errorf("--attempt 1: %s", stdout)
	}
	for _, args := range [][]string{{"logs", "zz"}, {"logs", digest, "--attempt", "9"}, {"retry", "zz"}} {
		if _, stderr, code := output(t, append(args, "--out", dir)...); code != 1 || stderr == "" {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	for _, want := range []string{"1 runs will", "0 runs will"} {
		if stdout, stderr, code := output(t, "retry", "--out", dir); code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("retry: exit %d: %s%s, want %q", code, stdout, stderr, want)
		}
	}
}
