package crate

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/audit"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

const spec = "../testdata/tiny.toml"

func launch(ctx context.Context, _ io.Writer) (reproduce.Process, error) { return tiny.Launch(ctx) }

func options(t *testing.T, to string) Options {
	t.Helper()
	f, err := study.Find(spec)
	if err != nil {
		t.Fatal(err)
	}
	ada, err := ParsePerson("Ada Lovelace <0000-0002-1825-0097>")
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		To: to, File: f, License: "https://spdx.org/licenses/CC-BY-4.0", Authors: []Person{ada, {Name: "N. N."}}, Version: "test", Launch: tiny.Launch,
		now: func() time.Time { return time.Date(2025, 11, 25, 0, 0, 0, 0, time.UTC) },
	}
}

// What is published opens as it was, as a folder and as a ZIP file, is a store in which
// the study's runs are, and nothing that was added, taken or changed is let pass.
func TestPublish(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	dir := t.TempDir()
	folder, archive := filepath.Join(dir, "folder"), filepath.Join(dir, "crate.zip")
	roots := map[string]string{}
	for _, to := range []string{folder, archive} {
		o := options(t, to)
		if to == archive {
			o.made = folder
		}
		root, err := Publish(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		roots[to] = root
		c, err := Open(t.Context(), to, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.Root != root || !c.Expands || !Is(to) || c.Dir == archive {
			t.Errorf("%s: opened with root %s, published with %s: %+v", to, c.Root, root, c.Published)
		}
		st, err := store.Existing(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if name, err := c.Study(t.Context(), st); err != nil || name != "tiny, profile base" {
			t.Errorf("the study %q, %v", name, err)
		}
		receipt, err := audit.Audit(t.Context(), st, audit.Options{
			Start:   func(string) (audit.Backend, error) { return audit.Backend{Launch: launch}, nil },
			Threads: 1, Jobs: 2, Sample: audit.Sample{N: 2}, Images: 2, Confidence: 0.95, Crate: c.Root,
		})
		if err != nil || receipt.Verdict != audit.Genuine || receipt.Runs.Population != len(r.Nodes) || receipt.Subject.Crate != root {
			t.Errorf("audited: %+v, %v", receipt, err)
		}
		dir := c.Dir
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); (err == nil) != (to == folder) {
			t.Errorf("%s, closed: %v", dir, err)
		}
	}
	t.Run("again", func(t *testing.T) {
		for _, to := range []string{folder, archive} {
			if _, err := Publish(t.Context(), r, options(t, to)); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("over what is there: %v", err)
			}
		}
	})
	t.Run("contents", func(t *testing.T) { testContents(t, folder) })
	t.Run("changed", func(t *testing.T) { testChanged(t, folder, r) })
	t.Run("archives", func(t *testing.T) { testArchives(t, archive) })
	if roots[folder] != roots[archive] {
		t.Errorf("the folder has root %s, the archive %s", roots[folder], roots[archive])
	}
	t.Run("validator", func(t *testing.T) { testValidator(t, archive) })
	t.Run("unfinished", func(t *testing.T) {
		if err := os.RemoveAll(r.Store.RunDir(r.Nodes[2].Digest)); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, "unfinished")
		if _, err := Publish(t.Context(), r, options(t, to)); err == nil || !strings.Contains(err.Error(), "4 of the 5 runs") {
			t.Errorf("a study that is not finished: %v", err)
		}
		if _, err := os.Lstat(to); err == nil {
			t.Error("something was left of it")
		}
	})
}

// testContents looks at the metadata as a stranger's program does.
func testContents(t *testing.T, dir string) {
	b, err := os.ReadFile(filepath.Join(dir, metadataFile))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Graph []map[string]any `json:"@graph"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	by := map[string]map[string]any{}
	for _, e := range doc.Graph {
		id := e["@id"].(string)
		if by[id] != nil {
			t.Errorf("%s is there twice", id)
		}
		by[id] = e
	}
	// Every link leads to something that is described, or is an address.
	var follow func(from string, v any)
	follow = func(from string, v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				follow(from, x)
			}
		case map[string]any:
			id := v["@id"].(string)
			if by[id] == nil && !strings.HasPrefix(id, "https://w3id.org/") && !strings.HasPrefix(id, "https://bioschemas.org/") {
				t.Errorf("%s leads to %s, which is not there", from, id)
			}
		}
	}
	for id, e := range by {
		for _, v := range e {
			follow(id, v)
		}
		kind := fmt.Sprint(e["@type"])
		if strings.Contains(kind, "File") || kind == "Dataset" {
			path := filepath.Join(dir, filepath.FromSlash(id))
			st, err := os.Stat(path)
			if err != nil || st.IsDir() != (kind == "Dataset") {
				t.Errorf("%s is described and is not there: %v", id, err)
			} else if sum, ok := e["sha256"]; ok {
				if f, err := files.Describe(path); err != nil || f.SHA256 != sum || fmt.Sprint(f.Size) != e["contentSize"] {
					t.Errorf("%s is described as %v of %v bytes, is %+v, %v", id, sum, e["contentSize"], f, err)
				}
			}
		}
		if strings.HasSuffix(id, "-published.svg") && (e["license"] == nil || !strings.Contains(fmt.Sprint(e["creditText"]), "Rangel DaCosta")) {
			t.Errorf("%s does not say whose results it shows", id)
		}
	}
	for _, id := range []string{"study/tiny.toml", "refocus.lock.toml", "models/0.onnx", "models/100.onnx", "reports/tiny-base/index.html", "https://orcid.org/0000-0002-1825-0097", "#author-2", "https://spdx.org/licenses/CC-BY-4.0"} {
		if by[id] == nil {
			t.Errorf("%s is not described", id)
		}
	}
	if e := by["study/tiny.toml"]; e["license"] != nil || by["./"]["citation"] != nil {
		t.Errorf("a spec that refocus does not come with is said to be licensed or from a paper: %v", e)
	}
	published, err := os.ReadFile(filepath.Join(dir, "study", "tiny.toml"))
	if own, err2 := os.ReadFile(spec); err != nil || err2 != nil || !bytes.Equal(own, published) {
		t.Errorf("the spec is not as it was: %v, %v", err, err2)
	}
	check := exec.Command(peers.Program(t, "sha256sum", "the sums are checked by it"), "--check", "--strict", "--quiet", sumsFile)
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v: %s", err, out)
	}
}

// copied is a copy of the crate for a test to spoil.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func testChanged(t *testing.T, folder string, r *reproduce.Resolved) {
	run := filepath.Join("runs", r.Nodes[1].Digest)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		do   func(dir string)
		want string
	}{
		"byte": {func(dir string) {
			path := filepath.Join(dir, run, store.WeightsFile)
			b, err := os.ReadFile(path)
			must(err)
			b[len(b)/2] ^= 1
			must(os.WriteFile(path, b, 0o644))
		}, store.WeightsFile},
		"metadata": {func(dir string) {
			path := filepath.Join(dir, metadataFile)
			b, err := os.ReadFile(path)
			must(err)
			must(os.WriteFile(path, bytes.Replace(b, []byte("Ada Lovelace"), []byte("Eva Lovelace"), 1), 0o644))
		}, metadataFile},
		"missing file":     {func(dir string) { must(os.Remove(filepath.Join(dir, run, store.HistoryFile))) }, store.HistoryFile + " is missing"},
		"missing run":      {func(dir string) { must(os.RemoveAll(filepath.Join(dir, run))) }, "is missing"},
		"missing sums":     {func(dir string) { must(os.Remove(filepath.Join(dir, sumsFile))) }, sumsFile + " is missing"},
		"missing root":     {func(dir string) { must(os.Remove(filepath.Join(dir, rootFile))) }, rootFile + " is missing"},
		"missing metadata": {func(dir string) { must(os.Remove(filepath.Join(dir, metadataFile))) }, metadataFile + " is missing"},
		"more":             {func(dir string) { must(os.WriteFile(filepath.Join(dir, "runs", "more"), nil, 0o644)) }, "does not list it"},
		"fewer sums": {func(dir string) {
			path := filepath.Join(dir, sumsFile)
			b, err := os.ReadFile(path)
			must(err)
			must(os.WriteFile(path, b[bytes.IndexByte(b, '\n')+1:], 0o644))
		}, rootFile + " is not the root"},
		"sums cut": {func(dir string) { must(os.Truncate(filepath.Join(dir, sumsFile), 1000)) }, "not a SHA-256, two spaces and a path"},
	} {
		dir := copied(t, folder)
		c.do(dir)
		if o, err := Open(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
			if o != nil {
				o.Close()
			}
		}
		if !Is(dir) {
			t.Errorf("%s: it is taken for a plain store", name)
		}
	}
	if runtime.GOOS != "windows" { // where links need a right
		dir := copied(t, folder)
		path := filepath.Join(dir, run, store.HistoryFile)
		must(os.Rename(path, filepath.Join(t.TempDir(), "history")))
		must(os.Symlink("/etc/passwd", path))
		if _, err := Open(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), "is not a file") {
			t.Errorf("a link: %v", err)
		}
	}

	// A run of another seed, which is whole and what its own spec gives, under sums and a
	// root that fit: it is none of the study's.
	dir := copied(t, folder)
	must(os.Rename(filepath.Join(dir, run), filepath.Join(dir, "runs", strings.Repeat("e", 64))))
	reseal(t, dir)
	c, err := Open(t.Context(), dir, nil)
	must(err)
	st, err := store.Existing(c.Dir)
	must(err)
	if _, err := c.Study(t.Context(), st); err == nil || !strings.Contains(err.Error(), "is not in the crate") {
		t.Errorf("a crate with another run: %v", err)
	}
	if c.Root == roots(t, folder) {
		t.Error("a crate with another run has the same root")
	}
}

func roots(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// reseal writes sums and root anew.
func reseal(t *testing.T, dir string) {
	t.Helper()
	var all []files.File
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, at)
		f, err := files.Describe(at)
		f.Name = filepath.ToSlash(rel)
		if f.Name != sumsFile && f.Name != rootFile {
			all = append(all, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b files.File) int { return strings.Compare(a.Name, b.Name) })
	var sums strings.Builder
	for _, f := range all {
		sums.WriteString(f.SumLine())
	}
	for name, text := range map[string]string{sumsFile: sums.String(), rootFile: files.Root(all) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// testArchives opens ZIP files that are not whole, or would do harm.
func testArchives(t *testing.T, archive string) {
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	refused := func(name string, content []byte, want string) {
		t.Helper()
		path := filepath.Join(dir, "test.zip")
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := Open(t.Context(), path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
			if c != nil {
				c.Close()
			}
		}
	}
	for _, n := range []int{0, 10, len(whole) / 3, len(whole) - 1} {
		refused(fmt.Sprintf("cut to %d bytes", n), whole[:n], "not a whole ZIP file")
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/3] ^= 1
	refused("a bit", flipped, "")

	type entry struct {
		name string
		mode fs.FileMode
	}
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"parent":      {[]entry{{"../outside", 0o644}}, "outside its folder"},
		"deep parent": {[]entry{{"runs/../../outside", 0o644}}, "outside its folder"},
		"absolute":    {[]entry{{"/tmp/outside", 0o644}}, "outside its folder"},
		"backslash":   {[]entry{{`..\outside`, 0o644}}, "outside its folder"},
		"drive":       {[]entry{{"C:outside", 0o644}}, "outside its folder"},
		"empty":       {[]entry{{"", 0o644}}, "outside its folder"},
		"link":        {[]entry{{"runs", fs.ModeSymlink | 0o777}}, "neither a file nor a folder"},
		"device":      {[]entry{{"runs", fs.ModeDevice | 0o644}}, "neither a file nor a folder"},
		"pipe":        {[]entry{{"runs", fs.ModeNamedPipe | 0o644}}, "neither a file nor a folder"},
		"twice":       {[]entry{{"a", 0o644}, {"a", 0o644}}, "two entries"},
		"case":        {[]entry{{"a", 0o644}, {"A", 0o644}}, "two entries"},
		"other":       {[]entry{{"hello.txt", 0o644}}, "no crate"},
		"nothing":     {nil, "no crate"},
	} {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, e := range append(c.entries, entry{metadataFile, 0o644})[:len(c.entries)+min(1, len(c.entries))] {
			if name == "other" && e.name == metadataFile {
				continue
			}
			h := &zip.FileHeader{Name: e.name}
			h.SetMode(e.mode)
			w, err := z.CreateHeader(h)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, "../../../etc/passwd")
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		refused(name, b.Bytes(), c.want)
	}
	var bomb bytes.Buffer
	z := zip.NewWriter(&bomb)
	w, err := z.Create(metadataFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 16<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	refused("bomb", bomb.Bytes(), "would unpack to")
	if _, err := os.Stat(filepath.Join(dir, "outside")); err == nil {
		t.Error("something lies outside")
	}
}

// testValidator has the community's validator look at the crate: nothing of what
// RO-Crate 1.1 and its profiles require is missing. What they recommend and it has not
// is logged.
func testValidator(t *testing.T, path string) {
	python := os.Getenv("REFOCUS_ROCRATE")
	peers.Need(t, python != "", "REFOCUS_ROCRATE does not name a Python with roc-validator and rocrate")
	cmd := exec.Command(python, "testdata/validate.py", path)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	var found struct {
		Required    []string       `json:"REQUIRED"`
		Recommended []string       `json:"RECOMMENDED"`
		Checks      map[string]int `json:"checks"`
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found.Checks["REQUIRED"] < 50 || found.Checks["RECOMMENDED"] < 50 {
		t.Errorf("checked %v", found.Checks)
	}
	for _, f := range found.Required {
		t.Errorf("required: %s", f)
	}
	for _, f := range found.Recommended {
		t.Logf("recommended: %s", f)
	}
}

func TestPeople(t *testing.T) {
	for text, want := range map[string]Person{
		"Ada Lovelace":                                            {Name: "Ada Lovelace"},
		"Josiah Carberry <0000-0002-1825-0097>":                   {"Josiah Carberry", "https://orcid.org/0000-0002-1825-0097"},
		"Josiah Carberry <https://orcid.org/0000-0002-1825-0097>": {"Josiah Carberry", "https://orcid.org/0000-0002-1825-0097"},
		"S. H. <0000-0002-1694-233X>":                             {"S. H.", "https://orcid.org/0000-0002-1694-233X"},
		"X <https://example.org/x>":                               {"X", "https://example.org/x"},
	} {
		if got, err := ParsePerson(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "<0000-0002-1825-0097>", "X <0000-0002-1825-0098>", "X <0000-0002-1825-0097", "X <someone>", "X <javascript:x>", "X <x@example.org>", "X > Y"} {
		if got, err := ParsePerson(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
	for text, want := range map[string]string{"CC-BY-4.0": "https://spdx.org/licenses/CC-BY-4.0", "https://example.org/licence": "https://example.org/licence"} {
		if got, err := License(text); err != nil || got != want {
			t.Errorf("licence %q is %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "do what you want", "../x", "<b>"} {
		if got, err := License(bad); err == nil {
			t.Errorf("licence %q is read as %q", bad, got)
		}
	}
}
