package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

const tested = "v9.8.7"

// clone is the commit that is checked out, in a folder of its own.
func clone(t *testing.T) string {
	t.Helper()
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	peers.Need(t, err == nil, "a release is made of a checkout")
	dir := filepath.Join(t.TempDir(), "checkout")
	if out, err := exec.Command("git", "clone", "-q", "--no-hardlinks", strings.TrimSpace(string(top)), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// released makes the release of this platform alone, in a folder.
func released(t *testing.T) string {
	t.Helper()
	platform := runtime.GOOS + "/" + runtime.GOARCH
	r := &release{version: tested, root: clone(t), folder: filepath.Join(t.TempDir(), tested), host: platform, log: t.Output()}
	if err := r.make(t.Context(), []string{platform}, false); err != nil {
		t.Fatal(err)
	}
	return r.folder
}

// unpack lays an archive out in a folder.
func unpack(t *testing.T, path, folder string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(folder, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o777)
		} else {
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(to, content, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The same commit gives the same bytes in another folder, and what comes out of
// the archive runs with its plugin pinned, from anywhere.
func TestRelease(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("unpacks tar archives")
	}
	peers.Program(t, "git", "a release is made of a checkout")
	peers.Program(t, "go", "it builds")
	first, second := released(t), released(t)
	if a, b := read(t, first, "SHA256SUMS"), read(t, second, "SHA256SUMS"); a != b {
		t.Errorf("two folders, two releases:\n%s\n%s", a, b)
	}
	for _, line := range strings.Split(strings.TrimSpace(read(t, first, "SHA256SUMS")), "\n") {
		sum, name, _ := strings.Cut(line, "  ")
		if files.Sum([]byte(read(t, first, name))) != sum {
			t.Errorf("%s does not have its sum", name)
		}
	}

	name := "refocus-" + tested + "-" + runtime.GOOS + "-" + runtime.GOARCH
	out := t.TempDir()
	unpack(t, filepath.Join(first, name+".tar.gz"), out)
	installed := filepath.Join(out, name)
	refocus := func(want string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(installed, program), args...)
		cmd.Dir = t.TempDir()
		got, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("refocus %q: %v, without %q:\n%s", args, err, want, got)
		}
	}
	refocus(tested, "version")
	refocus("gorgonia", "backends", "list")
	refocus(tested, "backends", "info", "gorgonia") // would be refused if it were not pinned
	refocus("passed", "backends", "verify", "gorgonia", "--only", "determinism")

	notices := read(t, installed, "THIRD-PARTY-NOTICES.txt")
	for _, want := range []string{"github.com/hashicorp/go-plugin", "Mozilla Public License", "gorgonia.org/gorgonia", "Go and its standard library"} {
		if !strings.Contains(notices, want) {
			t.Errorf("the notices lack %q", want)
		}
	}
	var cited struct {
		Version string `yaml:"version"`
		Commit  string `yaml:"commit"`
	}
	if err := yaml.Unmarshal([]byte(read(t, installed, "CITATION.cff")), &cited); err != nil || "v"+cited.Version != tested || len(cited.Commit) != 40 {
		t.Errorf("CITATION.cff says %+v (%v)", cited, err)
	}
	t.Run("container", func(t *testing.T) { testContainer(t, first, name) })
	t.Run("conda", func(t *testing.T) { testConda(t, first) })
}

// testConda does what conda-build does with the recipe: unpacks the source whose
// digest it names, runs the script of the build and that of the test.
func testConda(t *testing.T, folder string) {
	var recipe struct {
		Context struct{ Version string }
		Source  struct{ URL, SHA256 string }
		Build   struct{ Script []string }
		Tests   []struct{ Script []string }
		About   struct {
			Licences []string `yaml:"license_file"`
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, folder, "recipe.yaml")), &recipe); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("${{ version }}", recipe.Context.Version)
	source := filepath.Base(fill.Replace(recipe.Source.URL))
	if got := files.Sum([]byte(read(t, folder, source))); got != recipe.Source.SHA256 {
		t.Errorf("%s has digest %s, the recipe says %s", source, got, recipe.Source.SHA256)
	}
	work, prefix := t.TempDir(), t.TempDir()
	unpack(t, filepath.Join(folder, source), work)
	work = filepath.Join(work, "refocus-"+recipe.Context.Version)
	shell := func(dir, line string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", fill.Replace(line))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "PREFIX="+prefix, "PATH="+filepath.Join(prefix, "bin")+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return string(out)
	}
	for _, line := range recipe.Build.Script {
		shell(work, line)
	}
	for _, name := range recipe.About.Licences {
		if read(t, work, name) == "" {
			t.Errorf("%s is empty", name)
		}
	}
	elsewhere, ran := t.TempDir(), 0
	for _, test := range recipe.Tests {
		for _, line := range test.Script {
			shell(elsewhere, line)
			ran++
		}
	}
	if got := shell(elsewhere, "refocus version && refocus backends info gorgonia"); ran == 0 || strings.Count(got, tested) < 2 {
		t.Errorf("installed by the recipe, whose %d tests pass, they say:\n%s", ran, got)
	}
}

// What recipes for containers name is there.
func TestRecipesNameFiles(t *testing.T) {
	r := &release{version: tested, commit: "c0ffee"}
	out := map[string][]byte{}
	if err := r.recipes(out, "00"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Containerfile", "refocus.def"} {
		text := strings.ReplaceAll(string(out[name]), "${TARGETARCH}", "amd64")
		if !regexp.MustCompile(`\brefocus-v9\.8\.7-linux-amd64-rootfs\.tar\.gz\b`).MatchString(text) {
			t.Errorf("%s does not name the root file system:\n%s", name, text)
		}
		if strings.Contains(text, "<<") {
			t.Errorf("%s is not filled in:\n%s", name, text)
		}
	}
}

func TestVersionsAreChecked(t *testing.T) {
	for _, args := range [][]string{nil, {"1.2.3"}, {"v1.2"}, {"v1.2.3;x"}, {"v1.2.3", "--platforms", "linux"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}
