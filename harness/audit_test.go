package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/audit"
	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/store"
)

// The command line of audits, over the store of a reproduced study.
func TestAuditCommand(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("HOME", dir) // where macOS has it
	st, receipt := filepath.Join(dir, "store"), filepath.Join(dir, "receipt.json")
	if _, errs, code := output(t, "reproduce", "testdata/tiny.toml", "--out", st); code != 0 {
		t.Fatal(errs)
	}
	said, errs, code := output(t, "audit", st, "--sample", "40%", "--images", "2", "--seed", "3", "--output", receipt, "--json")
	if code != 0 || !strings.Contains(said, `"verdict":"genuine"`) {
		t.Fatalf("exit %d: %s%s", code, said, errs)
	}
	b, err := os.ReadFile(receipt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.VerifyReceipt(b)
	if err != nil || r.Runs.Sample != 2 || r.Runs.Population != 5 || r.Images.Sample != 2 || r.Seed != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	said, errs, code = output(t, "audit", "verify", receipt, st, "--signer", r.PublicKey)
	if code != 0 || !strings.Contains(said, "verdict:   genuine") || !strings.Contains(said, r.Subject.Root) {
		t.Errorf("exit %d: %s%s", code, said, errs)
	}

	// The same seed draws the same.
	if _, errs, code := output(t, "audit", st, "--sample", "2", "--images", "2", "--seed", "3", "--output", receipt, "--epochs", "1", "--study", "testdata/tiny.toml"); code != 0 {
		t.Fatal(errs)
	}
	if b, err = os.ReadFile(receipt); err != nil {
		t.Fatal(err)
	}
	again, err := audit.VerifyReceipt(b)
	if err != nil || again.Runs.Outcomes[0].Digest != r.Runs.Outcomes[0].Digest || again.Runs.Outcomes[1].Digest != r.Runs.Outcomes[1].Digest || again.Runs.Outcomes[0].Epochs != 1 || again.PublicKey != r.PublicKey {
		t.Errorf("%+v, %v", again, err)
	}

	altered := filepath.Join(dir, "altered.json")
	if err := os.WriteFile(altered, bytes.Replace(b, []byte(`"verdict": "genuine"`), []byte(`"verdict": "genuinE"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	forged := filepath.Join(dir, "forged")
	if err := os.CopyFS(forged, os.DirFS(st)); err != nil {
		t.Fatal(err)
	}
	victim := r.Runs.Outcomes[0].Digest
	forgeHistory(t, forged, victim)
	damaged := filepath.Join(dir, "damaged")
	if err := os.CopyFS(damaged, os.DirFS(st)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(damaged, "runs", victim, store.WeightsFile), 1000); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if _, err := store.Open(empty); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"verify", altered}, cli.ExitFailed, "it was changed since it was signed"},
		{[]string{"verify", filepath.Join(st, "runs", victim, store.ManifestFile)}, cli.ExitFailed, "no receipt of an audit"},
		{[]string{"verify", receipt, "--signer", strings.Repeat("0", 64)}, cli.ExitFailed, "was signed by " + r.PublicKey},
		{[]string{"verify", receipt, forged}, cli.ExitFailed, "the receipt is of a store with root " + r.Subject.Root},
		{[]string{"verify", receipt, damaged}, cli.ExitFailed, "damaged"},
		{[]string{"verify"}, cli.ExitUsage, "takes a receipt"},
		{[]string{forged, "--sample", "all", "--images", "0", "--output", filepath.Join(dir, "false.json")}, cli.ExitFailed, "the store is not genuine"},
		{[]string{damaged}, cli.ExitFailed, "damaged: " + filepath.Join(damaged, "runs", victim, store.WeightsFile)},
		{[]string{empty}, cli.ExitFailed, "no finished run"},
		{[]string{filepath.Join(dir, "nowhere")}, cli.ExitFailed, "no store"},
		{[]string{st, "--sample", "-3"}, cli.ExitUsage, "neither a number of runs"},
		{[]string{st, "--seed", "x"}, cli.ExitUsage, "whole number"},
		{[]string{st, "--confidence", "1"}, cli.ExitUsage, "above 0 and below 1"},
		{[]string{st, "--profile", "smoke"}, cli.ExitUsage, "--study"},
		{[]string{st, "--key", key}, cli.ExitFailed, "not a private key"},
		{[]string{st, "--backend", "nonesuch"}, cli.ExitFailed, "nonesuch"},
		{[]string{st, "--study", "defocus", "--profile", "smoke"}, cli.ExitFailed, "none of the"},
		{[]string{}, cli.ExitUsage, "a store"},
	} {
		said, errs, code := output(t, append([]string{"audit"}, c.args...)...)
		if code != c.code || !strings.Contains(said+errs, c.says) {
			t.Errorf("audit %v: exit %d, want %d and %q:\n%s%s", c.args, code, c.code, c.says, said, errs)
		}
	}
	if b, err = os.ReadFile(filepath.Join(dir, "false.json")); err != nil {
		t.Fatal(err)
	}
	if r, err = audit.VerifyReceipt(b); err != nil || r.Verdict != audit.False || len(r.Failed()) == 0 || !strings.Contains(r.Failed()[0], victim[:12]) {
		t.Errorf("the receipt of a forged store: %+v, %v", r, err)
	}
}

// forgeHistory makes a run's losses better than they were, has it lose those of single
// images, as runs of earlier versions, and makes its manifest fit.
func forgeHistory(t *testing.T, root, digest string) {
	t.Helper()
	st, err := store.Existing(root)
	if err != nil {
		t.Fatal(err)
	}
	h, err := st.History(digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range h.Epochs {
		for domain, s := range e.Validation {
			s.Loss *= 0.99
			e.Validation[domain] = s
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	m.Files = slices.DeleteFunc(m.Files, func(f files.File) bool { return f.Name == store.HistoryFile || f.Name == store.LossesFile })
	m.Files = append(m.Files, files.Of(store.HistoryFile, b))
	if err := os.Remove(filepath.Join(st.RunDir(digest), store.LossesFile)); err != nil {
		t.Fatal(err)
	}
	sealed, err := files.SealJSON(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{store.HistoryFile: b, store.ManifestFile: sealed} {
		if err := os.WriteFile(filepath.Join(st.RunDir(digest), name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
