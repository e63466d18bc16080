package reproduce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/store"
)

// Kinds of Waste.
const (
	WasteWeights = "weights" // that no study keeps, and that can be rebuilt
	WasteWork    = "work"    // of attempts that no later one would go on from
	WasteDamaged = "damaged" // set aside, and made again since
	WasteData    = "data"    // that no run was trained or validated on
)

// Waste is something in a store that nobody needs.
type Waste struct {
	Kind   string `json:"kind"`
	Path   string `json:"path"`
	Digest string `json:"digest"` // of the run or the set
	Why    string `json:"why"`
	Bytes  int64  `json:"bytes"`

	remove func() error
}

// ErrInUse says that something is no waste any more: somebody works with it.
var ErrInUse = errors.New("it is in use now")

// Remove removes it. After a crash at any moment the store is whole.
func (w *Waste) Remove() error {
	err := w.remove()
	if errors.Is(err, store.ErrBusy) || errors.Is(err, dataset.ErrInUse) {
		return fmt.Errorf("%s: %w", w.Path, ErrInUse)
	}
	return err
}

// unused is for how long nobody must have asked for a data set that no run names: a
// study asks for its sets before it has runs.
const unused = 24 * time.Hour

// FindWaste looks through a store, in order of the kinds. Weights are waste where the
// studies that are named do not keep them: those of other studies stay, and so do those
// of which a run in some process is the parent. Notes say what else stays that one
// might have thought to go, and why.
func FindWaste(ctx context.Context, st *store.Store, studies []*Resolved) (waste []Waste, notes []string, err error) {
	f := &finder{st: st, studies: studies}
	for _, find := range []func() error{f.weights, f.work, f.damaged, f.data} {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		if err := find(); err != nil {
			return nil, nil, err
		}
	}
	return f.waste, f.notes, nil
}

type finder struct {
	st      *store.Store
	studies []*Resolved
	waste   []Waste
	notes   []string
}

func (f *finder) note(format string, args ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, args...))
}

// weights finds the runs whose weights no study keeps that is named.
func (f *finder) weights() error {
	why := map[string]string{}
	var digests []string
	wanted := map[string]bool{}
	for _, r := range f.studies {
		drop, err := r.Superfluous()
		if err != nil {
			return err
		}
		superfluous := map[*Node]bool{}
		for _, n := range drop {
			superfluous[n] = true
			if why[n.Digest] == "" {
				why[n.Digest] = fmt.Sprintf("keep = %q", r.Plan.Study.Keep)
				digests = append(digests, n.Digest)
			}
		}
		for _, n := range r.Nodes {
			if !superfluous[n] {
				wanted[n.Digest] = true
			}
		}
	}
	if len(digests) == 0 {
		return nil
	}
	parents, err := f.parents()
	if err != nil {
		return err
	}
	fixed := map[string]int{} // by claim
	for _, digest := range digests {
		if wanted[digest] || parents[digest] || f.st.Dropped(digest) {
			continue
		}
		m, err := f.st.Manifest(digest)
		if err != nil {
			return err
		}
		if !Repeatable(m.Backend.Determinism) {
			fixed[m.Backend.Determinism]++
			continue
		}
		i := slices.IndexFunc(m.Files, func(x files.File) bool { return x.Name == store.WeightsFile })
		if i < 0 {
			continue
		}
		f.waste = append(f.waste, Waste{
			Kind: WasteWeights, Path: filepath.Join(f.st.RunDir(digest), store.WeightsFile), Digest: digest, Bytes: m.Files[i].Size,
			Why:    fmt.Sprintf("%s, %s; 'refocus rebuild' brings them back", m.ID, why[digest]),
			remove: func() error { _, err := f.st.Drop(digest, why[digest]); return err },
		})
	}
	for _, claim := range slices.Sorted(maps.Keys(fixed)) {
		f.note("the weights of %d runs stay, since their backend comes to the same bits again %s", fixed[claim], claimed(claim))
	}
	return nil
}

// parents are the runs that those start from which some process works on.
func (f *finder) parents() (map[string]bool, error) {
	all, err := f.st.Attempted()
	if err != nil {
		return nil, err
	}
	parents := map[string]bool{}
	for _, digest := range all {
		a, err := f.st.Last(digest)
		if err != nil {
			return nil, err
		}
		if a != nil && a.Parent != "" && a.Running() && !a.Process.Ended() {
			parents[a.Parent] = true
		}
	}
	return parents, nil
}

// work finds what attempts have left.
func (f *finder) work() error {
	all, err := f.st.Worked()
	if err != nil {
		return err
	}
	for _, digest := range all {
		left, err := f.st.Leftovers(digest)
		if errors.Is(err, store.ErrBusy) {
			continue
		}
		if err != nil {
			return err
		}
		for _, path := range left {
			f.waste = append(f.waste, Waste{
				Kind: WasteWork, Path: path, Digest: digest, Bytes: files.DiskUse(path), Why: "no attempt goes on from it",
				remove: func() error { return f.st.Sweep(digest) },
			})
		}
	}
	return nil
}

// damaged finds what was set aside and is there again.
func (f *finder) damaged() error {
	runs, err := f.st.Aside()
	if err != nil {
		return err
	}
	sets, err := dataset.Aside(f.st.Root())
	if err != nil {
		return err
	}
	add := func(path, digest string, again bool) {
		if !again {
			f.note("%s stays: what was damaged has not been made again", path)
			return
		}
		f.waste = append(f.waste, Waste{
			Kind: WasteDamaged, Path: path, Digest: digest, Bytes: files.DiskUse(path), Why: "it was damaged and has been made again",
			remove: func() error { return f.st.RemoveAside(path) },
		})
	}
	for _, path := range slices.Sorted(maps.Keys(runs)) {
		add(path, runs[path], f.st.HasRun(runs[path]))
	}
	for _, path := range slices.Sorted(maps.Keys(sets)) {
		m, err := dataset.ReadManifest(f.st.Root(), sets[path])
		if err == nil && m.Kind != dataset.Waves {
			_, err = dataset.Find(f.st.Root(), sets[path])
		}
		add(path, sets[path], err == nil)
	}
	gone, err := dataset.Removed(f.st.Root())
	if err != nil {
		return err
	}
	for _, path := range gone {
		f.waste = append(f.waste, Waste{
			Kind: WasteData, Path: path, Digest: filepath.Base(path), Bytes: files.DiskUse(path), Why: "it was being removed",
			remove: func() error { return f.st.RemoveAside(path) },
		})
	}
	return nil
}

// data finds simulated sets that no finished run and no study that is named has, and the
// exit waves of none but such sets.
func (f *finder) data() error {
	root := f.st.Root()
	sets, err := dataset.Sets(root)
	if err != nil || len(sets) == 0 {
		return err
	}
	named := map[string]bool{} // runs
	needed := map[string]bool{}
	for _, r := range f.studies {
		for _, n := range r.Nodes {
			named[n.Digest] = true
		}
		for _, s := range r.Data.Simulated {
			needed[s.Source.Digest()] = true
			needed[s.Source.Specimens()] = true
		}
	}
	runs, err := f.st.Runs()
	if err != nil {
		return err
	}
	finished := map[string]bool{}
	for _, digest := range runs {
		m, err := f.st.Manifest(digest)
		if err != nil {
			f.note("data sets stay: what run %.12s needs is not known: %v", digest, err)
			return nil
		}
		spec, err := specOf(m)
		if err != nil {
			return err
		}
		finished[digest] = true
		for _, p := range spec.Data {
			needed[p.Digest] = true
		}
		for _, d := range spec.Validation {
			needed[d.Digest] = true
		}
	}
	attempted, err := f.st.Attempted()
	if err != nil {
		return err
	}
	for _, digest := range attempted {
		if !finished[digest] && !named[digest] {
			id := digest[:min(12, len(digest))]
			if a, err := f.st.Last(digest); err == nil && a != nil && a.ID != "" {
				id = fmt.Sprintf("%s (%.12s) of %s", a.ID, digest, a.Study)
			}
			f.note("data sets stay: run %s is not finished, and which it needs is not known; name its study", id)
			return nil
		}
	}
	var candidates []Waste
	unfinished := false
	for _, digest := range sets {
		m, err := dataset.ReadManifest(root, digest)
		if err != nil {
			unfinished = unfinished || errors.Is(err, fs.ErrNotExist)
			continue
		}
		if ok, err := dataset.Unused(root, digest, unused); !needed[digest] && err == nil && ok {
			candidates = append(candidates, Waste{
				Kind: WasteData, Path: filepath.Join(f.st.Data(), digest), Digest: digest, Bytes: dataset.Bytes(root, digest), Why: m.Kind + " that no run is of",
				remove: func() error { return dataset.Remove(root, digest, unused) },
			})
		} else if m.Specimens != "" {
			needed[m.Specimens] = true
		}
	}
	for _, w := range candidates {
		m, err := dataset.ReadManifest(root, w.Digest)
		if err == nil && (m.Kind != dataset.Waves || !needed[w.Digest] && !unfinished) {
			f.waste = append(f.waste, w)
		}
	}
	return nil
}
