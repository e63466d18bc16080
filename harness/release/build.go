package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/backend/host"
	"github.com/refocus-em/refocus/harness/files"
)

const (
	program = "refocus"
	plugin  = "refocus-backend-gorgonia"
	bomTool = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"
)

// sources are the packages of the two executables.
var sources = map[string]string{
	program: "./harness/cmd/refocus",
	plugin:  "./plugins/gorgonia/cmd/refocus-backend-gorgonia",
}

// release is one version on its way.
type release struct {
	version, commit string
	time            time.Time // the commit's
	root, folder    string    // of the checkout, or a folder in it to begin with; of what is written
	host            string    // the platform this runs on
	bom             bool
	log             io.Writer
}

func (r *release) make(ctx context.Context, targets []string, dirty bool) error {
	var err error
	if r.root, err = r.git(ctx, "rev-parse", "--show-toplevel"); err != nil {
		return err
	}
	if r.commit, err = r.git(ctx, "rev-parse", "HEAD"); err != nil {
		return err
	}
	seconds, err := r.git(ctx, "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return err
	}
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	r.time = time.Unix(s, 0).UTC()
	if changes, err := r.git(ctx, "status", "--porcelain"); err != nil {
		return err
	} else if changes != "" && !dirty {
		return fmt.Errorf("the checkout has changes; commit them first:\n%s", changes)
	}
	if _, err := os.Stat(r.folder); err == nil {
		return fmt.Errorf("%s is there already", r.folder)
	}

	work, err := os.MkdirTemp("", "refocus-release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	built := map[string]map[string]string{} // platform, name: path
	for _, t := range targets {
		fmt.Fprintf(r.log, "building for %s\n", t)
		if built[t], err = r.build(ctx, t, filepath.Join(work, "bin", strings.ReplaceAll(t, "/", "-"))); err != nil {
			return err
		}
	}
	lock, err := r.pin(ctx, filepath.Join(work, host.LockName), built)
	if err != nil {
		return err
	}
	// A container holds nothing but them: not the loader of libraries that a plugin
	// which looks for a GPU's driver is started by. So it gets another plugin.
	contained := map[string]map[string]string{}
	for _, t := range targets {
		contained[t] = maps.Clone(built[t])
		if strings.HasPrefix(t, "linux/") {
			if contained[t][plugin], err = r.compile(ctx, t, filepath.Join(filepath.Dir(built[t][plugin]), "static"), plugin, "-tags", "static"); err != nil {
				return err
			}
		}
	}
	containedLock, err := r.pin(ctx, filepath.Join(work, "container", host.LockName), contained)
	if err != nil {
		return err
	}
	notices, err := r.notices(ctx, targets)
	if err != nil {
		return err
	}
	docs, err := r.documents()
	if err != nil {
		return err
	}
	docs = append(docs, entry{name: "THIRD-PARTY-NOTICES.txt", content: notices})

	out := map[string][]byte{} // the release's files by name
	for _, t := range targets {
		goos, arch, _ := strings.Cut(t, "/")
		name := fmt.Sprintf("refocus-%s-%s-%s", r.version, goos, arch)
		all := slices.Clone(docs)
		for _, n := range []string{program, plugin} {
			b, err := os.ReadFile(built[t][n])
			if err != nil {
				return err
			}
			all = append(all, entry{name: filepath.Base(built[t][n]), content: b, program: true})
		}
		all = append(all, entry{name: host.LockName, content: lock})
		if r.bom {
			for _, n := range []string{program, plugin} {
				b, err := r.materials(ctx, built[t][n])
				if err != nil {
					return err
				}
				all = append(all, entry{name: n + ".cdx.json", content: b})
			}
		}
		if goos == "windows" {
			out[name+".zip"], err = r.zip(name, all)
		} else {
			out[name+".tar.gz"], err = r.tar(name, all)
		}
		if err == nil && goos == "linux" {
			if all, err = replaced(all, contained[t][plugin], containedLock); err == nil {
				out[name+"-rootfs.tar.gz"], err = r.tar("", rootfs(all))
			}
		}
		if err != nil {
			return err
		}
	}
	source := "refocus-" + r.version + "-source.tar.gz"
	if out[source], err = r.source(ctx); err != nil {
		return err
	}
	if err := r.recipes(out, files.Sum(out[source])); err != nil {
		return err
	}

	var sums bytes.Buffer
	names := make([]string, 0, len(out))
	for name := range out {
		names = append(names, name)
	}
	slices.Sort(names)
	if err := files.Mkdir(r.folder); err != nil {
		return err
	}
	for _, name := range names {
		fmt.Fprintf(&sums, "%s  %s\n", files.Sum(out[name]), name)
		if err := files.Write(filepath.Join(r.folder, name), out[name]); err != nil {
			return err
		}
	}
	if err := files.Write(filepath.Join(r.folder, "SHA256SUMS"), sums.Bytes()); err != nil {
		return err
	}
	fmt.Fprint(r.log, sums.String())
	fmt.Fprintf(r.log, "wrote %s\n", r.folder)
	return nil
}

func (r *release) git(ctx context.Context, args ...string) (string, error) {
	out, err := r.output(ctx, nil, "git", args...)
	return strings.TrimSpace(string(out)), err
}

// output runs a program in the checkout; its error carries what it complained of.
func (r *release) output(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.root
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// flags make executables that depend on the sources alone.
func (r *release) flags() []string {
	return []string{"-trimpath", "-buildvcs=false", "-ldflags", fmt.Sprintf(
		"-s -w -buildid= -X github.com/refocus-em/refocus/harness/cli.release=%[1]s -X github.com/refocus-em/refocus/harness/cli.commit=%[2]s -X main.version=%[1]s", r.version, r.commit)}
}

// build makes the executables for a platform and returns their paths.
func (r *release) build(ctx context.Context, platform, folder string) (map[string]string, error) {
	paths := map[string]string{}
	for name := range sources {
		var err error
		if paths[name], err = r.compile(ctx, platform, folder, name); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// compile makes one executable.
func (r *release) compile(ctx context.Context, platform, folder, name string, flags ...string) (file string, err error) {
	goos, arch, _ := strings.Cut(platform, "/")
	file = filepath.Join(folder, name)
	if goos == "windows" {
		file += ".exe"
	}
	args := slices.Concat([]string{"build"}, r.flags(), flags, []string{"-o", file, sources[name]})
	env := []string{"CGO_ENABLED=0", "GOFLAGS=", "GOOS=" + goos, "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0"}
	_, err = r.output(ctx, env, "go", args...)
	return file, err
}

// replaced is an archive's entries with another plugin and the lock that pins it.
func replaced(all []entry, executable string, lock []byte) ([]entry, error) {
	content, err := os.ReadFile(executable)
	if err != nil {
		return nil, err
	}
	all = slices.Clone(all)
	for i, e := range all {
		switch e.name {
		case plugin:
			all[i].content = content
		case host.LockName:
			all[i].content = lock
		}
	}
	return all, nil
}

// pin asks this platform's program to pin the plugin in a new lock file, and adds the
// plugin's digests on the others.
func (r *release) pin(ctx context.Context, lock string, built map[string]map[string]string) ([]byte, error) {
	if err := files.Mkdir(filepath.Dir(lock)); err != nil {
		return nil, err
	}
	if _, err := r.output(ctx, []string{"REFOCUS_LOCK=" + lock}, built[r.host][program], "backends", "lock", built[r.host][plugin]); err != nil {
		return nil, err
	}
	pins, _, err := host.ReadLock(lock)
	if err != nil {
		return nil, err
	}
	pin, ok := pins.Find(strings.TrimPrefix(plugin, "refocus-backend-"))
	if !ok || len(pins.Backends) != 1 {
		return nil, fmt.Errorf("%s does not pin the plugin alone", lock)
	}
	for platform, paths := range built {
		b, err := os.ReadFile(paths[plugin])
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		pin.SHA256[platform] = hex.EncodeToString(sum[:])
	}
	return host.Lock{Backends: []host.Pin{pin}}.Bytes(), nil
}

// licence are the names of files that modules keep their terms in.
var licence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|third_party_licen[cs]es|patents)(\..*)?$`)

// notices are the licences of Go and of every module that is linked for any of
// the platforms.
func (r *release) notices(ctx context.Context, targets []string) ([]byte, error) {
	type module struct{ Path, Version, Dir string }
	modules := map[string]module{}
	for _, t := range targets {
		goos, arch, _ := strings.Cut(t, "/")
		args := []string{"list", "-deps", "-f", `{{with .Module}}{"Path":"{{.Path}}","Version":"{{.Version}}","Dir":{{printf "%q" .Dir}}}{{end}}`, sources[program], sources[plugin]}
		out, err := r.output(ctx, []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + arch}, "go", args...)
		if err != nil {
			return nil, err
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var m module
			if err := d.Decode(&m); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if m.Version != "" { // not this module
				modules[m.Path] = m
			}
		}
	}
	goroot, err := r.output(ctx, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	version, err := r.output(ctx, nil, "go", "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	all := []module{{"Go and its standard library", strings.TrimSpace(string(version)), strings.TrimSpace(string(goroot))}}
	for _, m := range modules {
		all = append(all, m)
	}
	slices.SortFunc(all[1:], func(a, b module) int { return strings.Compare(a.Path, b.Path) })

	var b bytes.Buffer
	b.WriteString("refocus is licensed under the Apache License 2.0 (LICENSE). Its executables contain\nwhat follows, under the terms given with each. The sources of every one are public\nunder its name and version.\n")
	for _, m := range all {
		entries, err := os.ReadDir(m.Dir)
		if err != nil {
			return nil, err
		}
		found := false
		for _, e := range entries {
			if e.IsDir() || !licence.MatchString(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, "\n%s\n%s %s, %s\n\n%s\n", strings.Repeat("=", 80), m.Path, m.Version, e.Name(), bytes.TrimSpace(text))
			found = true
		}
		if !found {
			return nil, fmt.Errorf("%s %s has no file that says its licence", m.Path, m.Version)
		}
	}
	return b.Bytes(), nil
}

// materials is the bill of materials of an executable, in CycloneDX's form.
func (r *release) materials(ctx context.Context, executable string) ([]byte, error) {
	return r.output(ctx, []string{"GOFLAGS="}, "go", "run", bomTool, "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", r.version, executable)
}

// documents are the texts that every archive has.
func (r *release) documents() ([]entry, error) {
	var all []entry
	for _, name := range []string{"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} {
		b, err := os.ReadFile(filepath.Join(r.root, name))
		if err != nil {
			return nil, err
		}
		if name == "CITATION.cff" {
			b = r.citation(b)
		}
		all = append(all, entry{name: name, content: b})
	}
	specs, err := filepath.Glob(filepath.Join(r.root, "specs", "*.toml"))
	if err != nil || len(specs) == 0 {
		return nil, fmt.Errorf("no specs below %s: %v", r.root, err)
	}
	for _, p := range specs {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{name: path.Join("specs", filepath.Base(p)), content: b})
	}
	return all, nil
}

var citedVersion = regexp.MustCompile(`(?m)^(version|date-released|commit): .*\n`)

// citation names the version, its commit and day.
func (r *release) citation(b []byte) []byte {
	text := citedVersion.ReplaceAll(b, nil)
	return append(bytes.TrimRight(text, "\n"), fmt.Sprintf("\nversion: %s\ncommit: %s\ndate-released: %s\n",
		strings.TrimPrefix(r.version, "v"), r.commit, r.time.Format(time.DateOnly))...)
}

// source is what the commit tracks.
func (r *release) source(ctx context.Context) ([]byte, error) {
	list, err := r.output(ctx, nil, "git", "ls-tree", "-r", "-z", "--format=%(objectmode) %(path)", "HEAD")
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, line := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		mode, name, _ := strings.Cut(line, " ")
		if mode != "100644" && mode != "100755" {
			return nil, fmt.Errorf("%s is no plain file", name)
		}
		b, err := r.output(ctx, nil, "git", "show", "HEAD:"+name)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{name: name, content: b, program: mode == "100755"})
	}
	return r.tar("refocus-"+strings.TrimPrefix(r.version, "v"), all)
}
