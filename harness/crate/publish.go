package crate

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/backend/host"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Names of a crate's files.
const (
	metadataFile = "ro-crate-metadata.json"
	readmeFile   = "README.md"
	studyFile    = "study/study.json"
	sumsFile     = "SHA256SUMS"
	rootFile     = "MERKLE-ROOT"
)

// studyFormat is the version of studyFile.
const studyFormat = 1

// Options of Publish.
type Options struct {
	// To is the folder to make, or the file where it ends in .zip.
	To string
	// File is the spec, of which the study is a profile.
	File *study.File
	// License is the address of the licence of what is published, see License.
	License string
	Authors []Person
	Version string // of refocus
	// Launch starts the backend, which predicts for the report and the models.
	Launch   func(context.Context) (reproduce.Process, error)
	Progress progress.Meter // nil for none

	now func() time.Time // another in tests
	// made, in tests, is a folder that has the report and the models already.
	made string
}

// publication is a crate that is being written.
type publication struct {
	r       *reproduce.Resolved
	o       Options
	meter   progress.Meter
	scratch string // the report and the models are made here
	runs    []*store.Manifest
	sets    []*dataset.Manifest
	sums    []files.File
	add     func(name string, modified time.Time, write func(io.Writer) error) error
}

// Publish writes a finished study as a crate, whole or not at all, and returns its root.
// What it copies from the store must be what its manifests say. There must be nothing
// yet where the crate goes.
func Publish(ctx context.Context, r *reproduce.Resolved, o Options) (root string, err error) {
	if o.now == nil {
		o.now = time.Now
	}
	p := &publication{r: r, o: o, meter: progress.Or(o.Progress)}
	if _, err := os.Lstat(o.To); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is something at %s already: name another place, or remove it", o.To)
	}
	if err := files.Writable(filepath.Dir(o.To)); err != nil {
		return "", err
	}
	if err := p.gather(ctx); err != nil {
		return "", err
	}
	if p.scratch, err = os.MkdirTemp("", "refocus-publish-"); err != nil {
		return "", err
	}
	defer os.RemoveAll(p.scratch)
	if o.made == "" {
		err = p.make(ctx)
	} else {
		err = errors.Join(os.CopyFS(filepath.Join(p.scratch, "reports"), os.DirFS(filepath.Join(o.made, "reports"))),
			os.CopyFS(filepath.Join(p.scratch, "models"), os.DirFS(filepath.Join(o.made, "models"))))
	}
	if err != nil {
		return "", err
	}
	if strings.EqualFold(filepath.Ext(o.To), ".zip") {
		return p.zip(ctx)
	}
	return p.folder(ctx)
}

// zip writes the crate as a ZIP file. Weights and images, which do not shrink, are not
// compressed.
func (p *publication) zip(ctx context.Context) (root string, err error) {
	_, err = files.Create(p.o.To, func(w io.Writer) error {
		z := zip.NewWriter(w)
		folders := map[string]bool{}
		p.add = func(name string, modified time.Time, write func(io.Writer) error) error {
			for i, c := range name { // metadata names folders, which a reader of it looks for
				folder := name[:i+1]
				if c != '/' || folders[folder] {
					continue
				}
				folders[folder] = true
				h := &zip.FileHeader{Name: folder, Modified: p.o.now()}
				h.SetMode(fs.ModeDir | 0o755)
				if _, err := z.CreateHeader(h); err != nil {
					return err
				}
			}
			h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified}
			if ext := path.Ext(name); ext == ".safetensors" || ext == ".onnx" || ext == ".gz" || ext == ".png" {
				h.Method = zip.Store
			}
			h.SetMode(0o644)
			out, err := z.CreateHeader(h)
			if err != nil {
				return err
			}
			return write(out)
		}
		if root, err = p.write(ctx); err != nil {
			return err
		}
		return z.Close()
	})
	return root, err
}

// folder writes it as a folder.
func (p *publication) folder(ctx context.Context) (root string, err error) {
	dir, err := filepath.Abs(p.o.To)
	if err != nil {
		return "", err
	}
	temp := filepath.Join(filepath.Dir(dir), ".tmp-"+filepath.Base(dir)+"-"+fmt.Sprint(os.Getpid()))
	disk := files.Disk{}
	if err := disk.RemoveAll(temp); err != nil {
		return "", err
	}
	p.add = func(name string, _ time.Time, write func(io.Writer) error) error {
		to := filepath.Join(temp, filepath.FromSlash(name))
		if err := disk.Mkdir(filepath.Dir(to)); err != nil {
			return err
		}
		_, err := disk.Create(to, write)
		return err
	}
	if root, err = p.write(ctx); err == nil {
		err = disk.Rename(temp, dir)
	}
	if err != nil {
		disk.RemoveAll(temp)
		return "", err
	}
	return root, nil
}

// gather makes sure that the study is finished and whole, and reads its manifests.
func (p *publication) gather(ctx context.Context) error {
	st := p.r.Store
	states, err := p.r.States()
	if err != nil {
		return err
	}
	if states.Finished < states.Runs {
		return fmt.Errorf("%d of the %d runs of %s are finished: what is published is a whole study ('refocus reproduce' finishes it)", states.Finished, states.Runs, p.r)
	}
	sets := map[string]bool{}
	p.meter.Begin("verifying", "runs", float64(len(p.r.Nodes)))
	defer p.meter.End()
	for _, n := range p.r.Nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if bad := st.Verify(n.Digest); len(bad) > 0 {
			return &bad[0]
		}
		m, err := st.Manifest(n.Digest)
		if err != nil {
			return err
		}
		p.runs = append(p.runs, m)
		for _, d := range n.Spec.Data {
			sets[d.Digest] = true
		}
		for _, d := range n.Spec.Validation {
			sets[d.Digest] = true
		}
		p.meter.Add(1)
	}
	for _, digest := range sorted(sets) {
		m, err := dataset.ReadManifest(st.Root(), digest)
		if err != nil {
			return fmt.Errorf("the images of %s: %w", p.r, err)
		}
		p.sets = append(p.sets, m)
	}
	return nil
}

// make makes the report and the models.
func (p *publication) make(ctx context.Context) error {
	dir := filepath.Join(p.scratch, "reports", filepath.Base(p.r.ReportDir()))
	p.meter.Printf("writing the report and the models")
	if _, err := report.Write(ctx, p.r, report.Options{Version: p.o.Version, Dir: dir, Launch: p.o.Launch}); err != nil {
		return err
	}
	b, err := p.o.Launch(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	targets := map[string]bool{}
	for _, n := range p.r.Nodes {
		targets[n.Spec.Target] = true
	}
	for _, target := range sorted(targets) {
		m, err := trained.Best(p.r.Store, p.r.Nodes, target)
		var dropped *store.DroppedError
		if errors.As(err, &dropped) {
			p.meter.Printf("no model of %s is published: %v", target, err)
			continue
		}
		if err != nil {
			return err
		}
		if m == nil {
			continue // a domain of pretraining alone
		}
		to := filepath.Join(p.scratch, "models", fileName(target)+".onnx")
		if err := files.Mkdir(filepath.Dir(to)); err != nil {
			return err
		}
		o := trained.ExportOptions{Options: export.Options{Consumers: []consumer.Consumer{}, Bare: true}}
		if _, err := m.Export(ctx, b, to, o); err != nil {
			return fmt.Errorf("exporting the best model of %s: %w", target, err)
		}
	}
	return nil
}

// fileName is a domain's key as a file's name.
func fileName(key string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || strings.ContainsRune(`/\:*?"<>|`, c) {
			return '_'
		}
		return c
	}, key)
}

// write writes all files and returns the root.
func (p *publication) write(ctx context.Context) (string, error) {
	p.meter.Begin("publishing", "files", float64(len(p.runs)+len(p.sets)))
	defer p.meter.End()
	for _, m := range p.sets {
		if err := p.copy(ctx, "data/"+m.Digest, m.Listed()); err != nil {
			return "", err
		}
		p.meter.Add(1)
	}
	for _, m := range p.runs {
		if err := p.copy(ctx, "runs/"+m.Digest, m.Files); err != nil {
			return "", err
		}
		p.meter.Add(1)
	}
	for _, part := range []string{"reports", "models"} {
		if err := p.copyMade(part); err != nil {
			return "", err
		}
	}
	spec := "study/" + path.Base(filepath.ToSlash(p.o.File.Path))
	lock, err := p.lock()
	if err != nil {
		return "", err
	}
	published, err := p.published(ctx, spec)
	if err != nil {
		return "", err
	}
	contents := map[string][]byte{spec: p.o.File.Content, studyFile: published, host.LockName: lock}
	if b, err := reference.FS.ReadFile(p.reference()); err == nil {
		contents["reference/"+p.reference()] = b
		contents["reference/ATTRIBUTION.txt"] = []byte(reference.Attribution + "\n")
	}
	for _, name := range sorted(contents) {
		if err := p.put(name, contents[name]); err != nil {
			return "", err
		}
	}
	if err := p.put(readmeFile, p.readme()); err != nil {
		return "", err
	}
	metadata, err := p.metadata(spec)
	if err != nil {
		return "", err
	}
	if err := p.put(metadataFile, metadata); err != nil {
		return "", err
	}
	slices.SortFunc(p.sums, func(a, b files.File) int { return strings.Compare(a.Name, b.Name) })
	var sums bytes.Buffer
	for _, f := range p.sums {
		sums.WriteString(f.SumLine())
	}
	root := files.Root(p.sums)
	if err := p.put(sumsFile, sums.Bytes()); err != nil {
		return "", err
	}
	return root, p.put(rootFile, []byte(root+"\n"))
}

// reference is the name of the file of the published tables.
func (p *publication) reference() string { return p.r.Plan.Study.Name + ".csv.gz" }

// put writes a file of the crate.
func (p *publication) put(name string, content []byte) error {
	p.sums = append(p.sums, files.Of(name, content))
	return p.add(name, p.o.now(), func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// copy copies a folder of the store, whose listed files must be what its manifest says.
func (p *publication) copy(ctx context.Context, dir string, listed []files.File) error {
	from := filepath.Join(p.r.Store.Root(), filepath.FromSlash(dir))
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() { // of a process that works there
			continue
		}
		got, err := p.copyFile(filepath.Join(from, e.Name()), dir+"/"+e.Name())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(listed, func(f files.File) bool { return f.Name == e.Name() })
		if i >= 0 && listed[i].SHA256 != got.SHA256 {
			return &files.Damage{Path: filepath.Join(from, e.Name()), Problem: fmt.Sprintf("its SHA-256 is %s, its manifest says %s ('refocus verify --repair' sets it aside, to be made again)", got.SHA256, listed[i].SHA256)}
		}
	}
	return nil
}

func (p *publication) copyFile(from, name string) (files.File, error) {
	in, err := os.Open(from)
	if err != nil {
		return files.File{}, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return files.File{}, err
	}
	if !st.Mode().IsRegular() {
		return files.File{}, fmt.Errorf("%s is not a file (%v)", from, st.Mode().Type())
	}
	h := sha256.New()
	f := files.File{Name: name}
	err = p.add(name, st.ModTime(), func(w io.Writer) error {
		f.Size, err = io.Copy(io.MultiWriter(w, h), in)
		return err
	})
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	p.sums = append(p.sums, f)
	return f, err
}

// copyMade copies what make made.
func (p *publication) copyMade(part string) error {
	err := filepath.WalkDir(filepath.Join(p.scratch, part), func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(p.scratch, at)
		if err != nil {
			return err
		}
		_, err = p.copyFile(at, filepath.ToSlash(rel))
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there are none
	}
	return err
}

// backends are those that have trained the runs, each once, by name.
func (p *publication) backends() []store.Backend {
	var all []store.Backend
	for _, m := range p.runs {
		b := m.Backend
		b.Device, b.Driver, b.Threads, b.Precision = "", "", 0, ""
		if !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b store.Backend) int {
		return strings.Compare(a.Name+" "+a.Version+" "+a.SHA256, b.Name+" "+b.Version+" "+b.SHA256)
	})
	return all
}

// lock pins the executables that have trained the runs. The built-in backend is part of
// refocus, whose version manifests have.
func (p *publication) lock() ([]byte, error) {
	var l host.Lock
	for _, m := range p.runs {
		if m.Backend.SHA256 == "" {
			continue
		}
		i := slices.IndexFunc(l.Backends, func(q host.Pin) bool { return q.Name == m.Backend.Name })
		if i < 0 {
			i = len(l.Backends)
			l.Backends = append(l.Backends, host.Pin{
				Name: m.Backend.Name, Version: m.Backend.Version, Protocol: plugin.ProtocolVersion, Numerics: m.Backend.Numerics, SHA256: map[string]string{},
			})
		}
		if was := l.Backends[i].SHA256[m.Host.OS]; was != "" && was != m.Backend.SHA256 {
			p.meter.Printf("warning: run %s was trained by another executable of backend %s than others (%.12s, not %.12s): the lock file pins the latter", m.ID, m.Backend.Name, m.Backend.SHA256, was)
			continue
		}
		l.Backends[i].SHA256[m.Host.OS] = m.Backend.SHA256
	}
	return l.Bytes(), nil
}

// published is the content of studyFile.
func (p *publication) published(ctx context.Context, spec string) ([]byte, error) {
	s := p.r.Plan.Study
	out := Published{Format: studyFormat, Name: s.Name, Profile: s.Profile, Spec: spec}
	out.Backend.Name, out.Backend.Numerics, out.Backend.Precisions = p.r.Backend.Name, p.r.Backend.Numerics, p.r.Backend.Precisions
	for _, n := range p.r.Nodes {
		out.Runs = append(out.Runs, n.Digest)
	}
	// Whether the spec is enough shows where nothing else is.
	at := filepath.Join(p.scratch, filepath.FromSlash(spec))
	if err := files.Mkdir(filepath.Dir(at)); err != nil {
		return nil, err
	}
	if err := files.Write(at, p.o.File.Content); err != nil {
		return nil, err
	}
	digests, err := expand(ctx, p.r.Store, at, out)
	out.Expands = err == nil && slices.Equal(digests, out.Runs)
	b, err := json.MarshalIndent(out, "", "  ")
	return append(b, '\n'), err
}

func sorted[T any](m map[string]T) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
