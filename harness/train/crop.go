package train

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
)

// cropper cuts the patches of a domain that a run trains on, anew every epoch. Where
// a patch lies depends on the run, the epoch and the patch alone, so that a run goes
// on after an interruption as if there had been none. A backend sees an ordinary
// data set.
type cropper struct {
	spec    Spec
	part    Part
	indices []int
	patches *dataset.Patches
	work    string
	last    string // the file that is loaded
}

func newCropper(job Job, p Part) (*cropper, error) {
	indices, err := subset(job.Spec.Seed, p.Name, p.Of, p.Images)
	if err != nil {
		return nil, err
	}
	if job.Work == "" {
		return nil, errors.New("patches need a folder to work in")
	}
	patches, err := job.Images[p.Name].Train.Patches()
	if err != nil {
		return nil, fmt.Errorf("the images of %s: %w", p.Name, err)
	}
	return &cropper{spec: job.Spec, part: p, indices: indices, patches: patches, work: job.Work}, nil
}

// load makes the patches of an epoch the domain's data set in a session.
func (c *cropper) load(ctx context.Context, sess backend.Session, epoch int) error {
	// The session may have the file of the epoch before open.
	path := filepath.Join(c.work, fmt.Sprintf("patches-%s-%d.safetensors", c.part.Name, epoch%2))
	purpose := fmt.Sprintf("crop %q %q %q", c.spec.Stream, c.spec.Stage, c.part.Name)
	f, err := c.patches.Write(ctx, path, c.indices, c.spec.Seed, purpose, epoch)
	if err != nil {
		return fmt.Errorf("cutting patches of %s: %w", c.part.Name, err)
	}
	if err := sess.LoadDataset(ctx, trainID+c.part.Name, path, f.SHA256); err != nil {
		return fmt.Errorf("loading the patches of %s: %w", c.part.Name, err)
	}
	if c.last != "" {
		os.Remove(c.last)
	}
	c.last = path
	return nil
}

// Close removes what is left. A file that is still open stays, on Windows, and goes
// with the folder when the run is finished.
func (c *cropper) Close() error {
	os.Remove(c.last)
	return c.patches.Close()
}
