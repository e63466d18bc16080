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
	options := importOptions(p, dom)
	options.Warn = func(format string, args ...any) {
		d.Warnings = append(d.Warnings, dom.Key+": "+fmt.Sprintf(format, args...))
	}
	im, err := dataset.Import(ctx, st.Root(), o.Images, o.Labels, options)
	if err != nil {
		return fmt.Errorf("domain %s: %w", dom.Key, err)
	}
	if o.Size != 0 && (im.Train.Height != o.Size || im.Train.Width != o.Size) {
		return fmt.Errorf("domain %s: %s has images of %d×%d pixels, the spec says %d", dom.Key, o.Images, im.Train.Height, im.Train.Width, o.Size)
	}
	if _, err := p.Network.Shapes([]int{1, p.Network.Input.Shape[1], im.Train.Height, im.Train.Width}); err != nil {
		return fmt.Errorf("domain %s: images of %d×%d pixels: %w", dom.Key, im.Train.Height, im.Train.Width, err)
	}
	d.Own = append(d.Own, OwnImages{dom, im})
	d.sets[setKey{dom.Key, dataset.Train}] = set{im.Train.Digest, im.Train.Count, o.Crop}
	d.sets[setKey{dom.Key, dataset.Validation}] = set{im.Validation.Digest, im.Validation.Count, 0}
	return nil
}

func importOptions(p *study.Plan, dom *study.Domain) dataset.ImportOptions {
	o, n := dom.Own, p.Study.Network
	return dataset.ImportOptions{
		TrainImages: o.TrainImages, ValidationImages: o.ValidationImages, ValidationFraction: o.ValidationFraction,
		Shuffle: o.Shuffle, Seed: p.Study.Seed, Name: dom.Key, GroupBy: o.GroupBy, Folds: o.Folds, Fold: o.Fold, Crop: o.Crop, Flatten: o.Flatten,
		LabelKind: o.LabelKind, LabelValues: o.LabelValues.Strings(), Void: string(o.Void),
		Classes: n.ClassCount(), ClassNames: n.Classes, PixelSize: o.PixelSize, Resample: pixelSize(p),
	}
}

// pixelSize is that in Å of the study's images: of those that it simulates, which
// cannot have another, else the first that a person states or a file says, 0 if none
// does. A file that cannot be read says so where it is imported.
func pixelSize(p *study.Plan) float64 {
	var first float64
	for i := range p.Domains {
		dom := &p.Domains[i]
		switch {
		case dom.Own == nil && dom.Simulation.Output > 0:
			return dom.Simulation.Cell / float64(dom.Simulation.Output)
		case dom.Own != nil && first == 0:
			if first = dom.Own.PixelSize; first == 0 {
				first, _ = dataset.PixelSize(dom.Own.Images)
			}
		}
	}
	return first
}

// ReadSizes puts the sizes and numbers of the user's own images into a plan, for
// its estimate, and returns why some cannot be read.
func ReadSizes(p *study.Plan) []error {
	var errs []error
	for i := range p.Domains {
		dom := &p.Domains[i]
		if dom.Own == nil {
			continue
		}
		train, validation, side, err := dataset.Sizes(dom.Own.Images, importOptions(p, dom))
		if err != nil {
			errs = append(errs, fmt.Errorf("domain %s: %w", dom.Key, err))
			continue
		}
		dom.TrainImages, dom.ValidationImages, dom.Own.Size = train, validation, side
	}
	return errs
}
