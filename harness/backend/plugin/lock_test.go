package plugin

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// install copies the test binary into a folder as a plugin's executable.
func install(t *testing.T, folder, name string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, Prefix+name)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	if os.Link(exe, path) == nil {
		return path
	}
	in, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	install(t, first, "fake")
	hidden := install(t, second, "fake")
	install(t, second, "cpu")
	os.WriteFile(filepath.Join(second, Prefix+"text"), []byte("no program"), 0o666)
	os.Mkdir(filepath.Join(second, Prefix+"folder"), 0o777)
	os.WriteFile(filepath.Join(second, Prefix+"UPPER"), nil, 0o777)
	p := Plugins{
		Builtin: map[string][]string{"cpu": {"serve-backend", "cpu"}},
		Places:  []Place{{filepath.Join(dir, "missing"), "nowhere"}, {first, "first"}, {second, "second"}},
	}
	var got []string
	for _, f := range p.List() {
		s := f.Name + " " + f.Where
		if f.Hidden {
			s += " hidden"
		}
		got = append(got, s)
	}
	if want := "cpu built in|fake first|cpu second hidden|fake second hidden"; strings.Join(got, "|") != want {
		t.Errorf("found %q, want %q", got, want)
	}
	p.LockFile = filepath.Join(dir, "missing", LockName)
	var list strings.Builder
	if err := p.PrintList(&list); err != nil || !strings.Contains(list.String(), "(fake)") || !strings.Contains(list.String(), "In brackets:") {
		t.Errorf("the list does not tell of hidden backends: %v\n%s", err, &list)
	}
	if f, err := p.Find("cpu"); err != nil || !f.Builtin || f.Args[1] != "cpu" {
		t.Errorf("cpu is %+v, %v", f, err)
	}
	if f, err := p.Find(hidden); err != nil || f.Name != "fake" || f.Path != hidden {
		t.Errorf("a path leads to %+v, %v", f, err)
	}
	_, err := p.Find("text")
	if err == nil || !strings.Contains(err.Error(), "there is: cpu, fake") || !strings.Contains(err.Error(), "refocus-backend-text is not an executable file") {
		t.Errorf("a text was found: %v", err)
	}
	if _, err := p.Find("./something"); err == nil || !strings.Contains(err.Error(), "refocus-backend-NAME") {
		t.Errorf("any path will do: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	root := t.TempDir()
	os.WriteFile(filepath.Join(root, "go.mod"), nil, 0o666)
	os.MkdirAll(filepath.Join(root, "plugins"), 0o777)
	work := filepath.Join(root, "x", "y")
	os.MkdirAll(work, 0o777)
	t.Chdir(work)
	t.Setenv("REFOCUS_PLUGIN_PATH", "/one"+string(os.PathListSeparator)+"/two")
	t.Setenv("XDG_DATA_HOME", "/data")
	t.Setenv("REFOCUS_LOCK", "")
	var got []string
	for _, p := range Places()[1:] {
		got = append(got, strings.TrimPrefix(p.Folder, root))
	}
	want := []string{"/x/y/plugins/bin", "/plugins/bin", "/one", "/two", "/data/refocus/plugins"}
	if runtime.GOOS != "windows" && strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("places %q, want %q", got, want)
	}
	if got, want := LockPath(), filepath.Join(root, "plugins", LockName); got != want {
		t.Errorf("the lock file is %s, want %s", got, want)
	}
	near := filepath.Join(root, "x", LockName)
	os.WriteFile(near, nil, 0o666)
	if got := LockPath(); got != near {
		t.Errorf("the lock file is %s, want %s", got, near)
	}
}

// A plugin is refused until it is pinned, and again when its file changes.
func TestLock(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := install(t, filepath.Join(dir, "bin"), "fake")
	p := Plugins{
		Places:   []Place{{filepath.Join(dir, "bin"), "bin"}},
		LockFile: filepath.Join(dir, LockName),
		Spec:     Spec{Env: []string{behaviour + "=fine"}},
	}
	refused := func(want Trust, words string) {
		t.Helper()
		c, err := p.Launch(ctx, "fake")
		if err == nil {
			c.Close()
		}
		var u *UnlockedError
		if !errors.As(err, &u) || u.Trust != want || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "refocus backends lock fake") {
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
