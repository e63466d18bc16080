package host

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/plugin"
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
	path := filepath.Join(folder, plugin.Prefix+name)
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
	os.WriteFile(filepath.Join(second, plugin.Prefix+"text"), []byte("no program"), 0o666)
	os.Mkdir(filepath.Join(second, plugin.Prefix+"folder"), 0o777)
	os.WriteFile(filepath.Join(second, plugin.Prefix+"UPPER"), nil, 0o777)
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
	t.Setenv("PATH", "/usr/bin"+string(os.PathListSeparator)+"/one")
	t.Setenv("REFOCUS_LOCK", "")
	var got []string
	for _, p := range Places()[1:] {
		got = append(got, strings.TrimPrefix(p.Folder, root))
	}
	want := []string{"/x/y/plugins/bin", "/plugins/bin", "/one", "/two", "/data/refocus/plugins", "/usr/bin"}
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

// What the user's own lock file pins is pinned wherever one works, unless the nearest
// lock file names it too; a lock file that is new is the user's.
func TestUserLock(t *testing.T) {
	config, project := t.TempDir(), t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	t.Setenv("HOME", config)
	t.Setenv("REFOCUS_LOCK", "")
	own := userLock()
	var p Plugins
	t.Chdir(project)
	if got := p.LockFileOf("mine"); got != own {
		t.Errorf("a new lock file is %s, want %s", got, own)
	}
	pin := func(name string) Lock { return Lock{Backends: []Pin{{Name: name, SHA256: map[string]string{}}}} }
	near := filepath.Join(project, LockName)
	if err := errors.Join(os.MkdirAll(filepath.Dir(own), 0o755), pin("mine").write(own), pin("other").write(near)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"mine": own, "other": near, "third": near} {
		if got := p.LockFileOf(name); got != want {
			t.Errorf("%s decides on %s, want %s", got, name, want)
		}
	}
	if err := pin("mine").write(near); err != nil {
		t.Fatal(err)
	}
	if got := p.LockFileOf("mine"); got != near {
		t.Errorf("%s decides, want the nearest, %s", got, near)
	}
}
