package dataset

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/random"
)

// Resimulator simulates single images of finished sets again and compares them with
// what the sets hold. It keeps what structures of one simulation share, so that images
// of one set are best asked for one after the other.
type Resimulator struct {
	root   string
	config hrtem.Config
	sim    simulator
	images *Images
	source Source
	m      *Manifest
}

// NewResimulator is for the sets below the artifacts folder root.
func NewResimulator(root string) *Resimulator { return &Resimulator{root: root} }

// Close closes the set that was last looked at.
func (r *Resimulator) Close() error {
	if r.images == nil {
		return nil
	}
	images := r.images
	r.images = nil
	return images.Close()
}

// Compare simulates image i of the named set again, from the settings that the set's
// digest covers, and says in what it differs from what the set holds; "" where every
// bit of pixels and labels and all that the manifest says of the image is the same.
func (r *Resimulator) Compare(ctx context.Context, digest string, i int) (difference string, err error) {
	if err := r.open(digest); err != nil {
		return "", err
	}
	if i < 0 || i >= r.source.Count {
		return "", fmt.Errorf("image %d of the %d of data set %.12s", i, r.source.Count, digest)
	}
	s, n := r.source, r.images.Height*r.images.Width
	sp, err := r.sim.Specimen(ctx, s.Seed, s.Split, i)
	if err != nil {
		return "", err
	}
	pixels, have, labels := make([]float32, n), make([]float32, n), make([]uint8, n)
	var made Origin
	if made.Defocus, err = r.sim.Image(ctx, sp, s.Conditions, s.imageStream(i), pixels); err != nil {
		return "", err
	}
	waves, err := encodeSpecimen(s.Config, sp)
	if err != nil {
		return "", err
	}
	made.Waves, made.Structure = contentOf(files.Of("", waves)), sp.Info
	if err := errors.Join(r.images.Image(i, have), r.images.Label(i, labels)); err != nil {
		return "", err
	}
	off, wrong, most := 0, 0, 0.0
	for k := range n {
		if math.Float32bits(have[k]) != math.Float32bits(pixels[k]) {
			off++
			most = max(most, math.Abs(float64(have[k])-float64(pixels[k])))
		}
		if labels[k] != sp.Label[k] {
			wrong++
		}
	}
	switch {
	case off > 0:
		return fmt.Sprintf("%d of its %d pixels are not those that its settings give, by %.3g at most (an image's variance is 1)", off, n, most), nil
	case wrong > 0:
		return fmt.Sprintf("%d of its %d labels are not those that its settings give", wrong, n), nil
	case digestOf(made) != digestOf(r.m.Images[i]):
		return "what its manifest says of its structure is not what its settings give", nil
	}
	return "", nil
}

// open makes the named set the one that is looked at.
func (r *Resimulator) open(digest string) error {
	if r.images != nil && r.m.Digest == digest {
		return nil
	}
	if err := r.Close(); err != nil {
		return err
	}
	m, err := ReadManifest(r.root, digest)
	if err != nil {
		return err
	}
	src, err := m.Source()
	if err != nil {
		return err
	}
	if len(m.Images) != src.Count {
		return fmt.Errorf("the manifest of data set %.12s describes %d of its %d images", digest, len(m.Images), src.Count)
	}
	ready, err := Find(r.root, digest)
	if err != nil {
		return err
	}
	if c := src.Config.Crop; ready.Height != c || ready.Width != c {
		return fmt.Errorf("data set %.12s has images of %d×%d pixels, its settings give %d×%d", digest, ready.Height, ready.Width, c, c)
	}
	if r.sim == nil || r.config != src.Config {
		if r.sim, err = hrtem.NewSimulator(src.Config); err != nil {
			return err
		}
		r.config = src.Config
	}
	if r.images, err = ready.Open(); err != nil {
		return err
	}
	r.m, r.source = m, src
	return nil
}

// imageStream gives image i of the set its own random numbers.
func (s Source) imageStream(i int) *rand.Rand {
	return random.Stream(s.Seed, "image "+digestOf(s.imaging()), uint64(i))
}
