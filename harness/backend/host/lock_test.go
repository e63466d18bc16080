package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// A plugin is refused until it is pinned, and again when its file changes.
func TestLock(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := install(t, filepath.Join(dir, "bin"), "fake")
	p := Plugins{
		Places:   []Place{{filepath.Join(dir, "bin"), "bin"}},
		LockFile: filepath.Join(dir, LockName),
		Spec:     plugin.Spec{Env: []string{servesPlugin + "=1"}},
	}
	refused := func(want Trust, words string) {
		t.Helper()
		c, err := p.Launch(ctx, "fake")
		if err == nil {
			c.Close()
		}
		var u *UnlockedError
		if !errors.As(err, &u) || u.Trust != want || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "refocus backends pin fake") {
			t.Errorf("got %v, want a refusal that says %q", err, words)
		}
	}
	refused(NotPinned, "there is no lock file yet")

	allowed := p
	allowed.AllowUnlocked = true
	c, err := allowed.Launch(ctx, "fake")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := os.Stat(p.LockFile); err == nil {
		t.Error("starting an unpinned plugin pinned it")
	}

	os.WriteFile(p.LockFile, []byte("# nothing\n"), 0o666)
	refused(NotPinned, "is not pinned for "+platform)

	pin, err := p.Lock(ctx, "fake")
	if err != nil || pin.Version != "1.2.3" || pin.Numerics != "fake-1" || pin.Protocol != 1 {
		t.Fatalf("pinned %+v, %v", pin, err)
	}
	c, err = p.Launch(ctx, "fake")
	if err != nil {
		t.Fatal(err)
	}
	d, _ := c.Describe(ctx)
	c.Close()

	var list, info strings.Builder
	if err := p.PrintList(&list); err != nil {
		t.Error(err)
	}
	for _, w := range []string{"NAME  TRUST", "fake  pinned  1.2.3    bin    " + path, "Lock file: " + p.LockFile} {
		if !strings.Contains(list.String(), w) {
			t.Errorf("no %q in the list:\n%s", w, &list)
		}
	}
	f, _ := p.Find("fake")
	if err := PrintInfo(&info, f, Pinned, d); err != nil {
		t.Error(err)
	}
	for _, w := range []string{"numerics     fake-1", "operator     Conv on cpu: any", "note         answers are made up", "pinned"} {
		if !strings.Contains(info.String(), w) {
			t.Errorf("no %q in the information:\n%s", w, &info)
		}
	}

	// Another file under the same name.
	other, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, append(other, 0), 0o777); err != nil {
		t.Fatal(err)
	}
	refused(Changed, "is not the file that")
	if c, err = allowed.Launch(ctx, "fake"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	list.Reset()
	p.PrintList(&list)
	if !strings.Contains(list.String(), "CHANGED") {
		t.Errorf("the list does not tell:\n%s", &list)
	}

	// A pin without an executable for any platform, as somebody may write.
	os.WriteFile(p.LockFile, []byte("[[backend]]\nname = \"fake\"\nversion = \"1.2.3\"\nprotocol = 1\nnumerics = \"fake-1\"\n"), 0o666)
	if pin, err := p.Lock(ctx, "fake"); err != nil || len(pin.SHA256) != 1 {
		t.Errorf("pinned %+v, %v", pin, err)
	}

	// A pin of another version.
	if _, err := p.Lock(ctx, "fake"); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(p.LockFile)
	os.WriteFile(p.LockFile, []byte(strings.Replace(string(text), "fake-1", "fake-0", 1)), 0o666)
	if _, err := p.Launch(ctx, "fake"); err == nil || !strings.Contains(err.Error(), `numerics "fake-1"`) {
		t.Errorf("other numerics than pinned: %v", err)
	}
}

func TestReadLockErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), LockName)
	for text, want := range map[string]string{
		"[[backend]]\nname = \"a\"\nsha = 3\n":                                 "unknown key",
		"[[backend]]\nname = \"a b\"\n":                                        "not valid",
		"[[backend]]\nname = \"a\"\n[[backend]]\nname = \"a\"\n":               "pinned twice",
		"[[backend]]\nname = \"a\"\n[backend.sha256]\n\"linux/amd64\" = \"1\"": "not the SHA-256",
		"[[backend]\n": "expected",
	} {
		os.WriteFile(path, []byte(text), 0o666)
		if _, _, err := ReadLock(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// What a plugin says about itself, whatever its characters, is read from a lock as it
// was written.
func TestLockQuotes(t *testing.T) {
	path := filepath.Join(t.TempDir(), LockName)
	said := "1.0 \a\v\x00\x7f\u0085\u200b\U0001f52c \"quoted\" \\ a\nline\t'"
	want := Pin{Name: "fake", Version: said, Protocol: 1, Numerics: said, SHA256: map[string]string{platform: strings.Repeat("a", 64)}}
	if err := (Lock{Backends: []Pin{want}}).write(path); err != nil {
		t.Fatal(err)
	}
	l, _, err := ReadLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := l.Find("fake"); got.Version != said || got.Numerics != said {
		t.Errorf("version %q and numerics %q were read, want %q", got.Version, got.Numerics, said)
	}
}
