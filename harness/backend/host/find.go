package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// Found is a backend that can be started.
type Found struct {
	Name    string
	Path    string   // of the executable; "" of a built-in backend
	Args    []string // of a built-in backend
	Where   string   // for people: "built in", "plugins/bin", …
	Builtin bool     // part of the harness's own executable
	Hidden  bool     // one of the same name comes first
}

// What two of the places are.
const (
	userData = "user data"
	onPath   = "$PATH"
)

// Place is a folder in which plugins are looked for.
type Place struct{ Folder, What string }

// Places are the folders in which plugins are looked for, in order: beside the
// harness's executable, plugins/bin of the working folder and of the module it
// lies in, $REFOCUS_PLUGIN_PATH, the user's data folder, and $PATH, where package
// managers of other languages put executables.
func Places() []Place {
	var ps []Place
	add := func(folder, what string) {
		if folder == "" {
			return
		}
		folder, err := filepath.Abs(folder)
		if err == nil && !slices.ContainsFunc(ps, func(p Place) bool { return p.Folder == folder }) {
			ps = append(ps, Place{folder, what})
		}
	}
	if exe, err := os.Executable(); err == nil {
		add(filepath.Dir(exe), "beside the harness")
	}
	add(filepath.Join("plugins", "bin"), "plugins/bin")
	if root := moduleRoot(); root != "" {
		add(filepath.Join(root, "plugins", "bin"), "plugins/bin")
	}
	for _, folder := range filepath.SplitList(os.Getenv("REFOCUS_PLUGIN_PATH")) {
		add(folder, "$REFOCUS_PLUGIN_PATH")
	}
	if data := dataFolder(); data != "" {
		add(filepath.Join(data, "refocus", "plugins"), userData)
	}
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		add(folder, onPath)
	}
	return ps
}

// moduleRoot is the nearest folder upwards that holds a go.mod, or "".
func moduleRoot() string {
	folder, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder
		}
		if filepath.Dir(folder) == folder {
			break
		}
		folder = filepath.Dir(folder)
	}
	return ""
}

func dataFolder() string {
	home, _ := os.UserHomeDir()
	switch {
	case os.Getenv("XDG_DATA_HOME") != "":
		return os.Getenv("XDG_DATA_HOME")
	case runtime.GOOS == "windows":
		return os.Getenv("LocalAppData")
	case home == "":
		return ""
	case runtime.GOOS == "darwin":
		return filepath.Join(home, "Library", "Application Support")
	}
	return filepath.Join(home, ".local", "share")
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

// List finds all backends: the built-in ones, then the executables by place.
func (p Plugins) List() []Found {
	var all []Found
	for name, args := range p.Builtin {
		all = append(all, Found{Name: name, Args: args, Where: "built in", Builtin: true})
	}
	slices.SortFunc(all, func(a, b Found) int { return strings.Compare(a.Name, b.Name) })
	for _, place := range p.places() {
		entries, err := os.ReadDir(place.Folder) // sorted; most places do not exist
		if err != nil {
			continue
		}
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), plugin.Prefix)
			if runtime.GOOS == "windows" {
				name = strings.TrimSuffix(name, ".exe")
			}
			path := filepath.Join(place.Folder, e.Name())
			if !ok || !validName.MatchString(name) || executable(path) != nil {
				continue
			}
			hidden := slices.ContainsFunc(all, func(f Found) bool { return f.Name == name })
			all = append(all, Found{Name: name, Path: path, Where: place.What, Hidden: hidden})
		}
	}
	return all
}

func (p Plugins) places() []Place {
	if p.Places != nil {
		return p.Places
	}
	return Places()
}

// executable reports why the file cannot be started, if so.
func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || runtime.GOOS != "windows" && st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

// Find returns the backend with the name, or the executable at a path (which
// must be named refocus-backend-NAME).
func (p Plugins) Find(name string) (Found, error) {
	if strings.ContainsAny(name, `/\`) {
		n, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(name), ".exe"), plugin.Prefix)
		if !ok || !validName.MatchString(n) {
			return Found{}, fmt.Errorf("backend %s: a plugin's executable must be called %sNAME, NAME of lower-case letters, digits, - and _", name, plugin.Prefix)
		}
		path, err := filepath.Abs(name)
		if err == nil {
			err = executable(path)
		}
		if err != nil {
			return Found{}, fmt.Errorf("backend %s: %w", name, err)
		}
		return Found{Name: n, Path: path, Where: "given path"}, nil
	}
	all := p.List()
	for _, f := range all {
		if f.Name == name {
			return f, nil
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "there is no backend %q", name)
	if len(all) > 0 {
		var names []string
		for _, f := range all {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		}
		fmt.Fprintf(&b, " (there is: %s)", strings.Join(names, ", "))
	}
	fmt.Fprintf(&b, "; its executable %s%s would be looked for in", plugin.Prefix, name)
	for i, place := range p.places() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(" " + place.Folder)
		if err := executable(filepath.Join(place.Folder, plugin.Prefix+name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(&b, " (%v)", err)
		}
	}
	return Found{}, errors.New(b.String())
}
