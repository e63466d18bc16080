package crate

import (
	"archive/zip"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Crate is a published study that was opened: every file is as it was published, if its
// root is.
type Crate struct {
	Dir  string // where it is, or was unpacked; also the root of a store
	Root string
	Published

	scratch string
}

// Published is what study/study.json says.
type Published struct {
	Format  int    `json:"format"`
	Name    string `json:"name"`
	Profile string `json:"profile"`
	Spec    string `json:"spec"` // path within the crate
	// Backend has the arithmetic of the runs.
	Backend struct {
		Name       string   `json:"name"`
		Numerics   string   `json:"numerics"`
		Precisions []string `json:"precisions"`
	} `json:"backend"`
	// Expands is whether the spec, alone, gives the runs: not where it names images or
	// networks that lie elsewhere.
	Expands bool     `json:"expands"`
	Runs    []string `json:"runs"` // digests, in the plan's order
}

// Is reports whether there is a crate at a path, and not just a store.
func Is(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	if !st.IsDir() {
		return true
	}
	for _, name := range []string{metadataFile, sumsFile, rootFile} {
		if _, err := os.Lstat(filepath.Join(path, name)); err == nil {
			return true
		}
	}
	return false
}

// Open reads every file of a crate, a folder or a ZIP file, and returns an error unless
// they are those, and all of those, that it lists. A ZIP file is unpacked into a folder
// of the system's for temporary files, which Close removes.
func Open(ctx context.Context, path string, meter progress.Meter) (*Crate, error) {
	c := &Crate{Dir: path}
	st, err := os.Stat(path)
	if err == nil && !st.IsDir() {
		if c.scratch, err = os.MkdirTemp("", "refocus-crate-"); err == nil {
			c.Dir = c.scratch
			err = unpack(path, c.scratch, st.Size())
		}
	}
	if err == nil {
		err = c.check(ctx, progress.Or(meter))
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("opening the crate %s: %w", path, err)
	}
	return c, nil
}

// Close removes what Open unpacked.
func (c *Crate) Close() error {
	if c.scratch == "" {
		return nil
	}
	return os.RemoveAll(c.scratch)
}

// mostExpansion is how many times its size a ZIP file may unpack to: histories shrink to
// a tenth, and what Publish writes is mostly not compressed at all.
const mostExpansion = 100

// unpack unpacks a ZIP file that holds nothing but files and folders below its root.
func unpack(path, dir string, size int64) error {
	z, err := zip.OpenReader(path)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fmt.Errorf("it is not a whole ZIP file: %w", err)
	}
	defer z.Close()
	total := uint64(0)
	seen := map[string]bool{}
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, "/")
		mode := f.Mode()
		switch {
		case !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\:") || !filepath.IsLocal(filepath.FromSlash(name)):
			return fmt.Errorf("it has an entry %q, which would lie outside its folder", f.Name)
		case !mode.IsRegular() && !mode.IsDir():
			return fmt.Errorf("its entry %q is neither a file nor a folder (%v)", f.Name, mode)
		case mode.IsDir() != strings.HasSuffix(f.Name, "/"):
			return fmt.Errorf("its entry %q is at once a file and a folder", f.Name)
		case seen[strings.ToLower(name)]:
			return fmt.Errorf("it has two entries %q", name)
		}
		seen[strings.ToLower(name)] = true
		if total += f.UncompressedSize64; f.UncompressedSize64 > 1<<60 || total/mostExpansion > uint64(size)+1 {
			return fmt.Errorf("it has %d bytes and would unpack to more than %d times as many", size, mostExpansion)
		}
	}
	if !seen[metadataFile] {
		return fmt.Errorf("it has no %s at its root: it is no crate", metadataFile)
	}
	if err := os.CopyFS(dir, &z.Reader); err != nil {
		return fmt.Errorf("unpacking it into %s: %w", dir, err)
	}
	return nil
}

// check compares all files with what the crate lists.
func (c *Crate) check(ctx context.Context, meter progress.Meter) error {
	for _, name := range []string{metadataFile, sumsFile, rootFile} {
		if st, err := os.Lstat(filepath.Join(c.Dir, name)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: it is no crate of refocus, or not all of one", name)
		} else if err != nil {
			return err
		} else if !st.Mode().IsRegular() {
			return fmt.Errorf("%s is not a file", name)
		}
	}
	text, err := os.ReadFile(filepath.Join(c.Dir, sumsFile))
	if err != nil {
		return err
	}
	listed, err := files.ParseSums(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", sumsFile, err)
	}
	root, err := os.ReadFile(filepath.Join(c.Dir, rootFile))
	if err != nil {
		return err
	}
	c.Root = files.Root(listed)
	if string(root) != c.Root+"\n" {
		return fmt.Errorf("%s is not the root of what %s lists, %s", rootFile, sumsFile, c.Root)
	}
	if err := c.onlyListed(listed); err != nil {
		return err
	}
	meter.Begin("crate", "files", float64(len(listed)))
	defer meter.End()
	for _, f := range listed {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(c.Dir, filepath.FromSlash(f.Name))
		switch got, err := files.Describe(path); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s is missing: it is not all of a crate", f.Name)
		case err != nil:
			return err
		case got.SHA256 != f.SHA256:
			return &files.Damage{Path: path, Problem: fmt.Sprintf("its SHA-256 is %s, %s says %s", got.SHA256, sumsFile, f.SHA256)}
		}
		meter.Add(1)
	}
	return c.readStudy(listed)
}

// onlyListed returns an error where the folder holds what is not listed, or is no file.
func (c *Crate) onlyListed(listed []files.File) error {
	known := map[string]bool{sumsFile: true, rootFile: true}
	for _, f := range listed {
		if f.Name == sumsFile || f.Name == rootFile {
			return fmt.Errorf("%s lists %s, which cannot be", sumsFile, f.Name)
		}
		known[f.Name] = true
	}
	if !known[metadataFile] || !known[studyFile] {
		return fmt.Errorf("%s does not list %s and %s: it is no crate of refocus", sumsFile, metadataFile, studyFile)
	}
	return filepath.WalkDir(c.Dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(c.Dir, at)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is not a file but %v: crates have none of these", rel, d.Type())
		case !known[rel]:
			return fmt.Errorf("%s is there and %s does not list it", rel, sumsFile)
		}
		return nil
	})
}

func (c *Crate) readStudy(listed []files.File) error {
	b, err := os.ReadFile(filepath.Join(c.Dir, filepath.FromSlash(studyFile)))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.Published); err != nil {
		return fmt.Errorf("%s: %w", studyFile, err)
	}
	if c.Format != studyFormat {
		return fmt.Errorf("%s has format %d, this program reads format %d", studyFile, c.Format, studyFormat)
	}
	if !slices.ContainsFunc(listed, func(f files.File) bool { return f.Name == c.Spec }) || path.Dir(c.Spec) != "study" {
		return fmt.Errorf("%s names the spec %q, which the crate has not", studyFile, c.Spec)
	}
	return nil
}

// Study compares the runs that the crate holds with those of its study, and returns
// what the study is called. Where its spec says so these are those that it expands to.
func (c *Crate) Study(ctx context.Context, st *store.Store) (name string, err error) {
	want := c.Runs
	if c.Expands {
		if want, err = expand(ctx, st, filepath.Join(c.Dir, filepath.FromSlash(c.Spec)), c.Published); err != nil {
			return "", err
		}
	}
	have, err := st.Runs()
	if err != nil {
		return "", err
	}
	for _, w := range want {
		if !slices.Contains(have, w) {
			return "", fmt.Errorf("run %.12s of the study is not in the crate", w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			return "", fmt.Errorf("run %.12s is in the crate, and none of the study's", h)
		}
	}
	return fmt.Sprintf("%s, profile %s", c.Name, cmp.Or(c.Profile, "base")), nil
}

// expand gives the digests of the runs of a spec that needs no other file.
func expand(ctx context.Context, st *store.Store, spec string, p Published) ([]string, error) {
	plan, err := study.Load(spec, p.Profile)
	if err != nil {
		return nil, err
	}
	for _, d := range plan.Domains {
		if d.Own != nil {
			return nil, fmt.Errorf("%s is of a study of somebody's own images", spec)
		}
	}
	r, err := reproduce.Resolve(ctx, st, plan, backend.Description{Name: p.Backend.Name, Numerics: p.Backend.Numerics, Precisions: p.Backend.Precisions})
	if err != nil {
		return nil, err
	}
	var digests []string
	for _, n := range r.Nodes {
		digests = append(digests, n.Digest)
	}
	return digests, nil
}
