package reproduce

import (
	"context"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
)

// Verification says how many data sets and runs were looked at, and what of them
// is damaged.
type Verification struct {
	Sets, Runs int
	Damaged    []files.Damage

	sets, runs []string // digests of what is damaged
}

// SetAside takes what is damaged out of the way, to be made again, and returns
// where it is now.
func (v *Verification) SetAside(ctx context.Context, st *store.Store) ([]string, error) {
	var aside []string
	for _, digest := range v.sets {
		path, err := dataset.SetAside(ctx, st.Root(), digest)
		if err != nil {
			return aside, err
		}
		aside = append(aside, path)
	}
	for _, digest := range v.runs {
		path, err := st.SetAside(digest)
		if err != nil {
			return aside, err
		}
		aside = append(aside, path)
	}
	return aside, nil
}

// Verify re-hashes everything in the store. Its error is that of ctx or of a
// folder that cannot be listed.
func Verify(ctx context.Context, st *store.Store, meter progress.Meter) (*Verification, error) {
	meter = progress.Or(meter)
	defer meter.End()
	sets, err := dataset.Sets(st.Root())
	if err != nil {
		return nil, err
	}
	runs, err := st.Runs()
	if err != nil {
		return nil, err
	}
	v := &Verification{Sets: len(sets), Runs: len(runs)}
	meter.Begin("data", "sets", float64(len(sets)))
	for _, digest := range sets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := dataset.Verify(st.Root(), digest); err != nil {
			v.Damaged = append(v.Damaged, files.Damage{Path: filepath.Join(st.Data(), digest), Problem: err.Error()})
			v.sets = append(v.sets, digest)
		}
		meter.Add(1)
	}
	meter.Begin("runs", "runs", float64(len(runs)))
	for _, digest := range runs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if bad := st.Verify(digest); len(bad) > 0 {
			v.Damaged = append(v.Damaged, bad...)
			v.runs = append(v.runs, digest)
		}
		meter.Add(1)
	}
	return v, nil
}
