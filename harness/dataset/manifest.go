package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
)

// Kinds of set.
const (
	Waves     = "exit waves"       // of a simulated specimen set
	Simulated = "simulated images" // of a Source
	OwnImages = "own images"       // of files that Import read
)

// Manifest describes a set. Its fields depend on the kind, and none on when or
// where it was made.
type Manifest struct {
	Format int    `json:"format"`
	Kind   string `json:"kind"`
	Digest string `json:"digest"`

	// Simulated sets and exit waves.
	Generator  int               `json:"generator,omitempty"` // hrtem.Version
	Config     *hrtem.Config     `json:"config,omitempty"`
	Seed       uint64            `json:"seed,omitempty"`
	Split      string            `json:"split,omitempty"`
	Conditions *hrtem.Conditions `json:"conditions,omitempty"`
	Specimens  string            `json:"specimens,omitempty"` // digest of the exit waves

	// Sets of images.
	Count     int                `json:"count,omitempty"`
	Height    int                `json:"height,omitempty"`
	Width     int                `json:"width,omitempty"`
	Classes   int                `json:"classes,omitempty"`
	PixelSize float64            `json:"pixel_size,omitempty"` // Å, 0 where unknown
	Files     map[string]content `json:"files,omitempty"`

	// Images has one entry per simulated image, in order.
	Images []Origin `json:"images,omitempty"`
	// Own says which files a user's own images come from.
	Own *Own `json:"own,omitempty"`
}

// Origin says how a simulated image came about.
type Origin struct {
	// Defocus is the actual defocus in Å, in the sign of the nominal one.
	Defocus float64 `json:"defocus"`
	// Waves describes the file of the structure's exit waves, which may have
	// been dropped since.
	Waves     content    `json:"waves"`
	Structure hrtem.Info `json:"structure"`
}

// Ready is a finished set of images.
type Ready struct {
	Digest string
	// Path is the safetensors file with "images" and "labels", SHA256 its digest:
	// what a backend's LoadDataset takes.
	Path, SHA256 string
	// Count images of Height·Width pixels, labelled with Classes classes.
	Count, Height, Width, Classes int
	// PixelSize in Å, 0 where unknown.
	PixelSize float64

	whole string // digest of the images as a whole, see Patches
}

const (
	imagesFile   = "images.safetensors"
	manifestFile = "manifest.json"
)

// ReadManifest reads the manifest of the named set below the artifacts folder.
func ReadManifest(root, digest string) (*Manifest, error) {
	dir, err := setDir(root, digest)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, manifestFile)
	m := new(Manifest)
	if err := readJSON(path, m); err != nil {
		return nil, err
	}
	if m.Format != Format {
		return nil, fmt.Errorf("%s has format %d, this program reads format %d: delete the folder, it will be made again", path, m.Format, Format)
	}
	if m.Digest != digest {
		return nil, &files.Damage{Path: path, Problem: "it describes " + m.Digest}
	}
	return m, nil
}

// ready is what a manifest of images says about its set.
func (m *Manifest) ready(dir string) (Ready, error) {
	f, ok := m.Files[imagesFile]
	if !ok {
		return Ready{}, &files.Damage{Path: filepath.Join(dir, manifestFile), Problem: "it lists no " + imagesFile}
	}
	return Ready{
		Digest: m.Digest, Path: filepath.Join(dir, imagesFile), SHA256: f.SHA256,
		Count: m.Count, Height: m.Height, Width: m.Width, Classes: m.Classes, PixelSize: m.PixelSize,
		whole: m.Files[wholeFile].SHA256,
	}, nil
}

// Find returns the named set of images if it is finished. Its error matches
// fs.ErrNotExist where there is none.
func Find(root, digest string) (Ready, error) {
	dir, err := setDir(root, digest)
	if err != nil {
		return Ready{}, err
	}
	m, err := ReadManifest(root, digest)
	if err != nil {
		return Ready{}, err
	}
	r, err := m.ready(dir)
	if err != nil {
		return Ready{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		if err := m.Files[name].file(name).CheckSize(filepath.Join(dir, filepath.Base(name))); err != nil {
			return Ready{}, err
		}
	}
	return r, nil
}

// check compares the digest of a file of the set with what its manifest says.
func (r Ready) check(path, digest string) error {
	got, err := files.Describe(path)
	if err == nil && got.SHA256 != digest {
		err = &files.Damage{Path: path, Problem: fmt.Sprintf("its SHA-256 is %s, its manifest says %s ('refocus verify --repair' sets it aside, to be made again)", got.SHA256, digest)}
	}
	return err
}

// findOrClear is Find for those who make what is missing: a set that is damaged is
// set aside, with a warning, and then is not there.
func findOrClear(ctx context.Context, disk files.Disk, root, digest string, warn func(format string, args ...any)) (Ready, error) {
	find := func() (Ready, error) {
		r, err := Find(root, digest)
		dir := filepath.Join(dataDir(root), digest)
		if _, there := os.Lstat(dir); there == nil && errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				return r, &files.Damage{Path: dir, Problem: "it is a link to nothing"}
			}
		}
		return r, err
	}
	r, err := find()
	if err == nil {
		err = disk.Settle(filepath.Dir(r.Path))
	}
	var damage *files.Damage
	if !errors.As(err, &damage) {
		return r, err
	}
	// One process at a time, lest the second sets aside what the first has made.
	lock, err := lockDamaged(ctx, root)
	if err != nil {
		return Ready{}, err
	}
	defer lock.Release()
	if r, err = find(); !errors.As(err, &damage) {
		return r, err
	}
	path, err := setAside(disk, root, digest)
	if err != nil {
		return Ready{}, fmt.Errorf("setting a data set aside (%w): %w", damage, err)
	}
	if warn != nil {
		warn("warning: %v: making the data set again; what was there is kept as %s", damage, path)
	}
	return Ready{}, fmt.Errorf("data set %s: %w", digest, fs.ErrNotExist)
}

func lockDamaged(ctx context.Context, root string) (*files.Lock, error) {
	return files.WaitLock(ctx, filepath.Join(dataDir(root), ".damaged.lock"))
}

func setAside(disk files.Disk, root, digest string) (string, error) {
	return disk.SetAside(filepath.Join(dataDir(root), digest), filepath.Join(dataDir(root), ".damaged"))
}

// Simulation is how a set's images were simulated. Its JSON form is in the metadata
// of exported models.
type Simulation struct {
	Config     hrtem.Config     `json:"config"`
	Conditions hrtem.Conditions `json:"conditions"`
}

// Simulation is how the set's images were simulated, nil for a user's own.
func (m *Manifest) Simulation() *Simulation {
	if m.Config == nil || m.Conditions == nil {
		return nil
	}
	return &Simulation{*m.Config, *m.Conditions}
}

// Listed describes the set's files beside its manifest.
func (m *Manifest) Listed() []files.File {
	var all []files.File
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		all = append(all, m.Files[name].file(filepath.Base(name)))
	}
	return all
}

// Source is what determines the set's images, of simulated ones. That it is what the
// set's digest stands for is made sure of.
func (m *Manifest) Source() (Source, error) {
	if m.Kind != Simulated || m.Config == nil || m.Conditions == nil {
		return Source{}, fmt.Errorf("data set %.12s is of %s: it cannot be simulated", m.Digest, m.Kind)
	}
	s := Source{Config: *m.Config, Conditions: *m.Conditions, Seed: m.Seed, Split: m.Split, Count: m.Count}
	if m.Generator != hrtem.Version {
		return s, fmt.Errorf("data set %.12s was simulated by version %d of the simulator, this program has version %d", m.Digest, m.Generator, hrtem.Version)
	}
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("the settings of data set %.12s: %w", m.Digest, err)
	}
	if d := s.Digest(); d != m.Digest {
		return s, fmt.Errorf("data set %.12s has settings whose digest is %.12s: they are not its own", m.Digest, d)
	}
	return s, nil
}
