package dataset

import (
	"fmt"
	"path/filepath"

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
	Count     int             `json:"count,omitempty"`
	Height    int             `json:"height,omitempty"`
	Width     int             `json:"width,omitempty"`
	Classes   int             `json:"classes,omitempty"`
	PixelSize float64         `json:"pixel_size,omitempty"` // Å, 0 where unknown
	Files     map[string]File `json:"files,omitempty"`

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
	Waves     File       `json:"waves"`
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
		return nil, fmt.Errorf("%s is damaged: it describes %s", path, m.Digest)
	}
	return m, nil
}

// ready is what a manifest of images says about its set.
func (m *Manifest) ready(dir string) (Ready, error) {
	f, ok := m.Files[imagesFile]
	if !ok {
		return Ready{}, fmt.Errorf("%s lists no %s", filepath.Join(dir, manifestFile), imagesFile)
	}
	return Ready{
		Digest: m.Digest, Path: filepath.Join(dir, imagesFile), SHA256: f.SHA256,
		Count: m.Count, Height: m.Height, Width: m.Width, Classes: m.Classes, PixelSize: m.PixelSize,
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
	return m.ready(dir)
}
