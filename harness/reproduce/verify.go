package reproduce

import (
	"context"
	"encoding/json"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// Verification says how many data sets and runs were looked at, and what of them
// is damaged.
type Verification struct {
	Sets, Runs int
	// Dropped counts the runs whose weights were dropped and can be rebuilt, which is
	// no damage.
	Dropped int
	Damaged []files.Damage

	sets, runs []finding
}

// finding is what is wrong with one set or run.
type finding struct {
	digest string
	damage []files.Damage
}

// Repair takes what is damaged out of the way, to be made again, and says of each
// what it did.
func (v *Verification) Repair(ctx context.Context, st *store.Store) (did []string, err error) {
	for _, f := range v.sets {
		more, err := dataset.Repair(ctx, st.Root(), f.digest, f.damage)
		did = append(did, more...)
		if err != nil {
			return did, err
		}
	}
	for _, f := range v.runs {
		path, err := st.SetAside(f.digest)
		if err != nil {
			return did, err
		}
		did = append(did, "set aside as "+path+", to be made again")
	}
	return did, nil
}

// Verify re-hashes everything in the store, as many files at once as there are cores.
// Its error is that of ctx or of a folder that cannot be listed.
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
	const unit = 1e6 // bytes
	sizes := map[string]int64{}
	total := 0.0
	for _, digest := range sets {
		sizes[digest] = dataset.Bytes(st.Root(), digest)
		total += float64(sizes[digest]) / unit
	}
	meter.Begin("data", "MB", total)
	v.sets = each(ctx, sets, func(digest string) []files.Damage {
		// What is told of a set comes to what it takes: manifests are read too, and of
		// what is missing nothing is.
		left := sizes[digest]
		read := func(n int64) {
			n = min(n, left)
			left -= n
			meter.Add(float64(n) / unit)
		}
		damage := dataset.Verify(ctx, st.Root(), digest, read)
		read(left)
		return damage
	})
	meter.Begin("runs", "runs", float64(len(runs)))
	v.runs = each(ctx, runs, func(digest string) []files.Damage {
		defer meter.Add(1)
		return verifyRun(st, digest)
	})
	for _, digest := range runs {
		if st.Dropped(digest) {
			v.Dropped++
		}
	}
	for _, f := range append(append([]finding(nil), v.sets...), v.runs...) {
		v.Damaged = append(v.Damaged, f.damage...)
	}
	return v, ctx.Err()
}

// each looks at all of the digests and returns, in their order, what is wrong.
func each(ctx context.Context, digests []string, look func(digest string) []files.Damage) []finding {
	damage := make([][]files.Damage, len(digests))
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := range next {
				damage[i] = look(digests[i])
			}
		})
	}
	for i := range digests {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	var found []finding
	for i, d := range damage {
		if len(d) > 0 {
			found = append(found, finding{digests[i], d})
		}
	}
	return found
}

// verifyRun looks at a run's files and at whether its history is one that its spec can
// have.
func verifyRun(st *store.Store, digest string) []files.Damage {
	bad := st.Verify(digest)
	if len(bad) > 0 {
		return bad
	}
	at := func(name string, err error) []files.Damage {
		return []files.Damage{{Path: filepath.Join(st.RunDir(digest), name), Problem: err.Error()}}
	}
	m, err := st.Manifest(digest)
	if err != nil {
		return at(store.ManifestFile, err)
	}
	var spec train.Spec
	if err := json.Unmarshal(m.Spec, &spec); err != nil {
		return at(store.ManifestFile, err)
	}
	h, err := spec.HistoryOf(st, m)
	if err != nil {
		return at(store.HistoryFile, err)
	}
	if _, err := spec.ReadLosses(st, digest, h); err != nil {
		return at(store.LossesFile, err)
	}
	return nil
}
