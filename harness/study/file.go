package study

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/refocus-em/refocus/specs"
)

// DefaultProfile is the one that File.Study applies where none is named.
const DefaultProfile = "quick"

// NameError says that no series or no profile has the name asked for.
type NameError struct{ text string }

func (e *NameError) Error() string { return e.text }

func nameErrorf(format string, args ...any) error {
	return &NameError{fmt.Sprintf(format, args...)}
}

// File is a spec file whose every profile has been checked.
type File struct {
	// Path is where the file was read, or "specs/NAME.toml" for a shipped one.
	Path string
	// Content is what was read.
	Content []byte

	base     *Study
	profiles map[string]*Study
}

// Load reads the spec that Find finds under a name and expands one of its
// profiles, the default one for "".
func Load(name, profile string) (*Plan, error) {
	f, err := Find(name)
	if err != nil {
		return nil, err
	}
	s, err := f.Study(profile)
	if err != nil {
		return nil, err
	}
	return s.Expand()
}

// Find reads the shipped spec that name is ("defocus", …; see [Series]), or else
// the file at that path.
func Find(name string) (*File, error) {
	if !strings.ContainsAny(name, `/\.`) {
		data, err := specs.FS.ReadFile(name + ".toml")
		if err != nil {
			best, _ := nearest(name, Series())
			return nil, nameErrorf("no series is called %q; nearest: %s; for a file write its path, such as ./%s.toml", name, best, name)
		}
		return Parse("specs/"+name+".toml", data)
	}
	data, err := readFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading spec %s: %w", name, err)
	}
	f, err := Parse(name, data)
	if err != nil {
		return nil, err
	}
	f.resolve(filepath.Dir(name))
	return f, nil
}

// readFile reads at most one byte more than a spec may have.
func readFile(name string) ([]byte, error) {
	r, err := os.Open(name)
	if err != nil {
		return nil, bare(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(io.LimitReader(r, maxFileSize+1)); err != nil {
		return nil, bare(err)
	}
	return b.Bytes(), nil
}

// bare drops the path from an error that is about to be wrapped with it.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Series returns the names of the shipped specs, sorted.
func Series() []string {
	entries, err := specs.FS.ReadDir(".")
	if err != nil {
		panic(err) // an embedded folder can be read
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// Parse reads a spec from memory; name stands for it in messages. The error is
// an [*Error] wherever the content is at fault, and covers the file with each
// of its profiles.
func Parse(name string, data []byte) (*File, error) {
	doc, err := parseDocument(name, data)
	if err != nil {
		return nil, err
	}
	f := &File{Path: name, Content: data, profiles: map[string]*Study{}}

	base := without(doc.raw, "profile")
	overlays, ok := doc.raw["profile"].(map[string]any)
	if !ok && doc.raw["profile"] != nil {
		return nil, doc.problems(name, []Problem{{path: []string{"profile"}, Message: "wants tables such as [profile.quick], not " + describe(doc.raw["profile"])}})
	}

	d := &decoder{}
	f.base = &Study{}
	*f.base = Defaults()
	d.assign(nil, base, reflect.ValueOf(f.base).Elem())
	for _, p := range keys(overlays) {
		s := Defaults()
		(&decoder{}).assign(nil, base, reflect.ValueOf(&s).Elem()) // its problems are known
		d.assign([]string{"profile", p}, overlays[p], reflect.ValueOf(&s).Elem())
		s.Profile = p
		f.profiles[p] = &s
	}

	// A field that could not be decoded keeps its default. Until all can be,
	// conditions between several fields would complain about values nobody
	// wrote, and a field that seems missing may only be misspelt.
	decoded := len(d.found) == 0
	bad := map[string]bool{}
	for _, p := range d.found {
		bad[strings.Join(p.path, "\x00")] = true
	}
	seen := map[string]bool{}
	for i, s := range append([]*Study{f.base}, f.sorted()...) {
		for _, p := range s.check(decoded) {
			if overlay := append([]string{"profile", s.Profile}, p.path...); i > 0 && doc.has(overlay) {
				p.path = overlay
			} else if key := strings.Join(p.path, "\x00") + "\x00" + p.Message; i == 0 {
				seen[key] = true
			} else if seen[key] {
				continue // the base has this problem too
			} else {
				p.Message += fmt.Sprintf(" (with profile %s)", s.Profile)
			}
			if decoded || doc.has(p.path) && !bad[strings.Join(p.path, "\x00")] {
				d.found = append(d.found, p)
			}
		}
		s.complete()
	}
	if err := doc.problems(name, d.found); err != nil {
		return nil, err
	}
	return f, nil
}

// without returns m less one key.
func without(m map[string]any, key string) map[string]any {
	c := map[string]any{}
	for k, v := range m {
		if k != key {
			c[k] = v
		}
	}
	return c
}

// Profiles returns the names of the file's profiles, sorted.
func (f *File) Profiles() []string { return keys(f.profiles) }

// Study returns the study with a profile applied. An empty name means
// DefaultProfile where the file has it, and no overlay otherwise.
func (f *File) Study(profile string) (*Study, error) {
	if profile == "" {
		if s, ok := f.profiles[DefaultProfile]; ok {
			return s, nil
		}
		return f.base, nil
	}
	s, ok := f.profiles[profile]
	if !ok {
		if len(f.profiles) == 0 {
			return nil, nameErrorf("%s has no profiles, so not %q either", f.Path, profile)
		}
		best, _ := nearest(profile, f.Profiles())
		return nil, nameErrorf("%s has no profile %q; nearest: %s", f.Path, profile, best)
	}
	return s, nil
}

func (f *File) sorted() []*Study {
	var all []*Study
	for _, p := range f.Profiles() {
		all = append(all, f.profiles[p])
	}
	return all
}

// resolve makes the paths of own data and of a network relative to the spec's
// folder.
func (f *File) resolve(dir string) {
	for _, s := range append([]*Study{f.base}, f.sorted()...) {
		if n := &s.Network; n.ONNX != "" && !filepath.IsAbs(n.ONNX) {
			n.ONNX = filepath.Join(dir, n.ONNX)
		}
		for _, name := range keys(s.Own) {
			o := s.Own[name]
			o.resolve(dir)
			s.Own[name] = o
		}
	}
}

// complete fills in what depends on other fields.
func (s *Study) complete() {
	if s.Network.ONNX != "" {
		s.Network.Width = 0
		if s.Network.Weights == "" {
			s.Network.Weights = WeightsKept
		}
	}
	for _, name := range keys(s.Own) {
		o := s.Own[name]
		if o.TrainImages == 0 && o.ValidationImages == 0 && o.ValidationFraction == 0 && o.Folds == 0 {
			o.ValidationFraction = 0.2
		}
		s.Own[name] = o
	}
}
