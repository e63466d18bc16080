package reproduce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

// FindImages finds images of a simulated domain in the store: those to train on or,
// where only these have been made, those to validate on.
func FindImages(st *store.Store, p *study.Plan, d *study.Domain) (dataset.Source, dataset.Ready, error) {
	var err error
	for _, split := range []string{dataset.Train, dataset.Validation} {
		src := Source(p.Study, d, split)
		var ready dataset.Ready
		if ready, err = dataset.Find(st.Root(), src.Digest()); err == nil {
			return src, ready, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = missing(st, p, d)
	}
	return dataset.Source{}, dataset.Ready{}, err
}

func missing(st *store.Store, p *study.Plan, d *study.Domain) error {
	return fmt.Errorf("the images of %s, profile %s, are not in the store at %s yet; run 'refocus data' first", d.Name, p.Study.ProfileName(), st.Root())
}

// Generate makes the simulated data sets that are missing and returns where
// every domain's images are.
func (d *Data) Generate(ctx context.Context, st *store.Store, p *study.Plan, o dataset.Options) (map[string]train.Images, error) {
	var sources []dataset.Source
	for _, s := range d.Simulated {
		sources = append(sources, s.Source)
	}
	ready, err := dataset.Generate(ctx, st.Root(), sources, o)
	if err != nil {
		return nil, err
	}
	byDigest := map[string]dataset.Ready{}
	for _, r := range ready {
		byDigest[r.Digest] = r
	}
	find := func(domain, split string) (dataset.Ready, error) {
		s, ok := d.sets[setKey{domain, split}]
		if !ok {
			return dataset.Ready{}, nil
		}
		if r, ok := byDigest[s.digest]; ok {
			return r, nil
		}
		r, err := dataset.Find(st.Root(), s.digest) // the user's own
		if err != nil {
			return r, fmt.Errorf("%s images of %s: %w", split, domain, err)
		}
		return r, nil
	}
	images := map[string]train.Images{}
	for _, dom := range p.Domains {
		var im train.Images
		if im.Train, err = find(dom.Key, dataset.Train); err != nil {
			return nil, err
		}
		if im.Validation, err = find(dom.Key, dataset.Validation); err != nil {
			return nil, err
		}
		images[dom.Key] = im
	}
	return images, nil
}
