package reproduce

import (
	"context"
	"fmt"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// own imports a domain's images of the user's own, unless they are in the store
// already, and takes their numbers from the files where the spec gives none.
func (d *Data) own(ctx context.Context, st *store.Store, p *study.Plan, dom *study.Domain) error {
	o := dom.Own
	im, err := dataset.Import(ctx, st.Root(), o.Images, o.Labels, dataset.ImportOptions{
		TrainImages: o.TrainImages, ValidationImages: o.ValidationImages, ValidationFraction: o.ValidationFraction,
		Classes: study.Classes, PixelSize: o.PixelSize,
		Warn: func(format string, args ...any) { d.Warnings = append(d.Warnings, fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		return fmt.Errorf("domain %s: %w", dom.Key, err)
	}
	if o.Size != 0 && (im.Train.Height != o.Size || im.Train.Width != o.Size) {
		return fmt.Errorf("domain %s: %s has images of %d×%d pixels, the spec says %d", dom.Key, o.Images, im.Train.Height, im.Train.Width, o.Size)
	}
	if _, err := p.Network.Shapes([]int{1, p.Network.Input.Shape[1], im.Train.Height, im.Train.Width}); err != nil {
		return fmt.Errorf("domain %s: images of %d×%d pixels: %w", dom.Key, im.Train.Height, im.Train.Width, err)
	}
	d.sets[setKey{dom.Key, dataset.Train}] = set{im.Train.Digest, im.Train.Count}
	d.sets[setKey{dom.Key, dataset.Validation}] = set{im.Validation.Digest, im.Validation.Count}
	return nil
}
