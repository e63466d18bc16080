package dataset

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// damageOf is what Verify finds, as an error.
func damageOf(root, digest string) error {
	var errs []error
	for _, d := range Verify(context.Background(), root, digest, func(int64) {}) {
		errs = append(errs, &d)
	}
	return errors.Join(errs...)
}

// Whatever is done to a set, Verify names it, Repair takes it out of the way, and
// Generate makes the same bytes again.
func TestRepair(t *testing.T) {
	b := newBench(t, 3)
	b.generate(t)
	good := contents(t, b.root)
	set, waves := b.sources[0].Digest(), b.sources[0].Specimens()
	at := func(digest, name string) string { return filepath.Join(b.root, "data", digest, name) }
	change := func(path, from, to string) error { // of the same length
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(content), from) {
			return errors.New(from + " is not in " + path)
		}
		return os.WriteFile(path, []byte(strings.Replace(string(content), from, to, 1)), 0o644)
	}
	elsewhere := t.TempDir()
	for name, c := range map[string]struct {
		digest string
		harm   func() error
		want   string // among what is found
		did    string // by Repair
	}{
		"a number in a manifest":     {set, func() error { return change(at(set, manifestFile), `"defocus": `, `"defocus": 1`) }, "seal", "set aside"},
		"the seal":                   {set, func() error { return change(at(set, manifestFile), `"seal": "`, `"Seal": "`) }, "unknown field", "set aside"},
		"manifest gone":              {set, func() error { return os.Remove(at(set, manifestFile)) }, "no manifest", "set aside"},
		"images gone":                {set, func() error { return os.Remove(at(set, imagesFile)) }, "missing", "set aside"},
		"a pixel":                    {set, func() error { return flip(at(set, imagesFile), 2000) }, "SHA-256", "set aside"},
		"a file of somebody's":       {set, func() error { return os.WriteFile(at(set, "notes"), nil, 0o644) }, "does not list", "set aside"},
		"a file in place of the set": {set, func() error { return errors.Join(os.RemoveAll(at(set, "")), os.WriteFile(at(set, ""), nil, 0o644)) }, "not a directory", "set aside"},
		"a link to nothing":          {set, func() error { return errors.Join(os.RemoveAll(at(set, "")), os.Symlink("/nowhere", at(set, ""))) }, "link to nothing", "set aside"},
		"a link to what is damaged": {set, func() error {
			return errors.Join(os.Rename(at(set, ""), filepath.Join(elsewhere, "set")), os.Symlink(filepath.Join(elsewhere, "set"), at(set, "")), flip(filepath.Join(elsewhere, "set", imagesFile), 2000))
		}, "SHA-256", "set aside"},
		"a wave":                       {waves, func() error { return flip(at(waves, shardName(1)), 2000) }, "SHA-256", "removed"},
		"a structure's numbers":        {waves, func() error { return change(at(waves, entryName(1)), `"structure"`, `"Structure"`) }, "seal", "removed"},
		"waves that nothing describes": {waves, func() error { return os.Remove(at(waves, entryName(2))) }, "half there", "removed"},
	} {
		if err := c.harm(); err != nil {
			t.Fatal(name, err)
		}
		bad := Verify(t.Context(), b.root, c.digest, func(int64) {})
		if len(bad) != 1 || !strings.Contains(bad[0].Problem, c.want) {
			t.Errorf("%s: found %v, want one thing about %q", name, bad, c.want)
		}
		did, err := Repair(t.Context(), b.root, c.digest, bad)
		if err != nil || !slices.ContainsFunc(did, func(s string) bool { return strings.Contains(s, c.did) }) {
			t.Errorf("%s: did %q, %v", name, did, err)
		}
		if c.digest == waves { // which are simulated again where images need them
			if err := os.RemoveAll(at(set, "")); err != nil {
				t.Fatal(err)
			}
		}
		b.generate(t)
		if err := errors.Join(damageOf(b.root, set), damageOf(b.root, waves)); err != nil {
			t.Errorf("%s: repaired and made again: %v", name, err)
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(b.root, "data", ".damaged")), os.RemoveAll(filepath.Join(b.root, "data", ".damaged.lock"))); err != nil {
			t.Fatal(err)
		}
		sameContents(t, contents(t, b.root), good)
	}

	// A set that is being made is not damaged.
	if err := os.Mkdir(at(strings.Repeat("a", 64), ""), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(at(strings.Repeat("b", 64), "parts"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if err := damageOf(b.root, strings.Repeat(name, 64)); err != nil {
			t.Errorf("a set that is being made: %v", err)
		}
	}

	// Sets that were made before manifests had seals are read.
	path := at(set, manifestFile)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	plain := content[:strings.LastIndex(string(content), ",\n  \"seal\"")]
	if err := os.WriteFile(path, append(plain[:len(plain):len(plain)], "\n}\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(b.root, set); err != nil {
		t.Errorf("without a seal: %v", err)
	}
	if err := damageOf(b.root, set); err != nil {
		t.Errorf("without a seal: %v", err)
	}
}

// Pixels enter nothing unless they are those of the manifest.
func TestOpenChecks(t *testing.T) {
	b := newBench(t, 2)
	ready := b.generate(t)
	if err := flip(ready[0].Path, 2000); err != nil {
		t.Fatal(err)
	}
	if _, err := ready[0].Open(); err == nil || !strings.Contains(err.Error(), "verify --repair") {
		t.Errorf("opening a set with a changed pixel: %v", err)
	}
}
