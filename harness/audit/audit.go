package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// Options of an audit.
type Options struct {
	// Backend is the name of the one that trains again; "" is that of each run.
	Backend string
	// Start says how to start a backend of that name.
	Start func(name string) (Backend, error)
	// Device of the backend, Threads of each run, Jobs at once; none changes a bit
	// where the backend claims that.
	Device        string
	Threads, Jobs int

	Sample Sample // of runs
	Images int    // simulated images that are simulated again
	// Epochs is of how many epochs a run is trained again at most, 0 for all.
	Epochs     int
	Seed       uint64
	Confidence float64 // of what is said of all, between 0 and 1

	// Study and Runs are whose runs are audited, all finished ones of the store where
	// Runs is nil.
	Study string
	Runs  []string // digests
	// Missing is how many more runs the study has, which the store lacks.
	Missing int
	// Crate is the root of the crate that the store is in, if it is in one.
	Crate   string
	Harness string // version of refocus
	// Progress counts the work; nil for none.
	Progress progress.Meter
}

// Backend is how a backend's process is started.
type Backend struct {
	Launch func(ctx context.Context, log io.Writer) (reproduce.Process, error)
	SHA256 string // of its executable
}

// DamagedError is of a store that is not as it was written, so that there is nothing to
// audit.
type DamagedError struct{ Damaged []files.Damage }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%d damaged, the first %v: what is not even as it was written needs no audit", len(e.Damaged), &e.Damaged[0])
}

// Audit audits a store, which it does not write to. The receipt is not signed yet. The
// error is that of ctx, of a store that cannot be audited, or of a backend that cannot
// be started; that a run or an image is false is no error.
func Audit(ctx context.Context, st *store.Store, o Options) (*Receipt, error) {
	a := &auditor{st: st, o: o, meter: progress.Or(o.Progress), backends: map[string]*used{}}
	defer a.close()
	if err := a.look(ctx); err != nil {
		return nil, err
	}
	if err := a.images(ctx); err != nil {
		return nil, err
	}
	if err := a.runs(ctx); err != nil {
		return nil, err
	}
	r := &a.receipt
	r.Format, r.Harness, r.Host, r.Time = ReceiptFormat, o.Harness, reproduce.Host(), time.Now().UTC().Truncate(time.Second)
	r.Seed, r.Confidence, r.Epochs = o.Seed, o.Confidence, o.Epochs
	r.conclude()
	return r, nil
}

type auditor struct {
	st       *store.Store
	o        Options
	meter    progress.Meter
	receipt  Receipt
	digests  []string // of all runs that may be drawn
	sets     []string // of simulated images
	counts   []int    // of their images
	backends map[string]*used
}

// used is a backend that trains again.
type used struct {
	*reproduce.Retrainer
	desc   backend.Description
	sha256 string
}

func (a *auditor) close() {
	for _, u := range a.backends {
		u.Close()
	}
}

// look verifies everything and finds out what there is.
func (a *auditor) look(ctx context.Context) error {
	v, err := reproduce.Verify(ctx, a.st, a.meter)
	if err != nil {
		return err
	}
	if len(v.Damaged) > 0 {
		return &DamagedError{v.Damaged}
	}
	s := &a.receipt.Subject
	s.Crate, s.Study, s.Missing = a.o.Crate, a.o.Study, a.o.Missing
	all, err := Inventory(a.st)
	if err != nil {
		return err
	}
	s.Root, s.Files = files.Root(all), len(all)
	for _, f := range all {
		s.Bytes += f.Size
	}
	if a.digests = a.o.Runs; a.digests == nil {
		if a.digests, err = a.st.Runs(); err != nil {
			return err
		}
	}
	if len(a.digests) == 0 {
		return fmt.Errorf("the store %s has no finished run to audit", a.st.Root())
	}
	slices.Sort(a.digests)
	sets, err := imageSets(a.st)
	if err != nil {
		return err
	}
	for _, m := range sets {
		if m.Kind == dataset.OwnImages {
			s.OwnSets++
			continue
		}
		a.sets, a.counts = append(a.sets, m.Digest), append(a.counts, m.Count)
		a.receipt.Images.Population += m.Count
	}
	return nil
}

// Inventory describes every file of every finished run and every set of images, as
// manifests do, under its path in the store. It does not read what manifests list:
// reproduce.Verify does.
func Inventory(st *store.Store) ([]files.File, error) {
	var all []files.File
	add := func(dir string, listed []files.File) error {
		manifest, err := files.Describe(filepath.Join(st.Root(), filepath.FromSlash(dir), store.ManifestFile))
		if err != nil {
			return err
		}
		for _, f := range append(listed[:len(listed):len(listed)], manifest) {
			f.Name = dir + "/" + f.Name
			all = append(all, f)
		}
		return nil
	}
	runs, err := st.Runs()
	if err != nil {
		return nil, err
	}
	for _, digest := range runs {
		m, err := st.Manifest(digest)
		if err != nil {
			return nil, err
		}
		if err := add("runs/"+digest, m.Files); err != nil {
			return nil, err
		}
	}
	sets, err := imageSets(st)
	if err != nil {
		return nil, err
	}
	for _, m := range sets {
		if err := add("data/"+m.Digest, m.Listed()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// imageSets are the manifests of all finished sets of images.
func imageSets(st *store.Store) ([]*dataset.Manifest, error) {
	digests, err := dataset.Sets(st.Root())
	if err != nil {
		return nil, err
	}
	var all []*dataset.Manifest
	for _, digest := range digests {
		m, err := dataset.ReadManifest(st.Root(), digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not finished
		}
		if err != nil {
			return nil, err
		}
		if m.Kind != dataset.Waves {
			all = append(all, m)
		}
	}
	return all, nil
}

// images simulates a sample of the images again.
func (a *auditor) images(ctx context.Context) error {
	drawn := &a.receipt.Images
	drawn.Sample = min(a.o.Images, drawn.Population)
	drawn.Outcomes = []Image{}
	if drawn.Sample == 0 {
		return nil
	}
	first := 0
	chosen := draw(a.o.Seed, a.receipt.Subject.Root, "images", drawn.Population, drawn.Sample)
	for k, digest := range a.sets {
		for len(chosen) > 0 && chosen[0] < first+a.counts[k] {
			drawn.Outcomes = append(drawn.Outcomes, Image{Set: digest, Index: chosen[0] - first})
			chosen = chosen[1:]
		}
		first += a.counts[k]
	}
	a.meter.Begin("simulating again", "images", float64(drawn.Sample))
	defer a.meter.End()
	// Images of one set stay together, so that a worker opens few.
	workers := min(max(1, a.o.Jobs*max(1, a.o.Threads)), drawn.Sample)
	var wg sync.WaitGroup
	for w := range workers {
		part := drawn.Outcomes[w*drawn.Sample/workers : (w+1)*drawn.Sample/workers]
		wg.Go(func() {
			again := dataset.NewResimulator(a.st.Root())
			defer again.Close()
			for i := range part {
				if ctx.Err() != nil {
					return
				}
				o := &part[i]
				o.Outcome = SameBits
				difference, err := again.Compare(ctx, o.Set, o.Index)
				switch {
				case err != nil:
					o.Outcome, o.Difference = NotAudited, err.Error()
				case difference != "":
					o.Outcome, o.Difference = Differs, difference
				}
				a.meter.Add(1)
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// runs trains a sample of the runs again.
func (a *auditor) runs(ctx context.Context) error {
	drawn := &a.receipt.Runs
	drawn.Population, drawn.Sample = len(a.digests), a.o.Sample.Of(len(a.digests))
	drawn.Outcomes = make([]Run, drawn.Sample)
	all := make([]*subject, drawn.Sample)
	total := 0.0
	for k, i := range draw(a.o.Seed, a.receipt.Subject.Root, "runs", drawn.Population, drawn.Sample) {
		s, err := a.subject(ctx, a.digests[i])
		if err != nil {
			return err
		}
		all[k] = s
		total += s.work()
	}
	if drawn.Sample == 0 {
		return nil
	}
	a.meter.Begin("training again", "image-steps", total)
	defer a.meter.End()
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(max(1, a.o.Jobs), drawn.Sample) {
		wg.Go(func() {
			for k := range next {
				started := time.Now()
				o := &drawn.Outcomes[k]
				*o = all[k].judge(ctx)
				o.Seconds = time.Since(started).Seconds()
				a.meter.Event("audited", map[string]any{"id": o.ID, "digest": o.Digest, "outcome": o.Outcome})
				if o.Outcome == Differs {
					a.meter.Printf("%s is false: %s", o.ID, o.Differences[0])
				}
			}
		})
	}
	for k := range all {
		if ctx.Err() != nil {
			break
		}
		next <- k
	}
	close(next)
	wg.Wait()
	return ctx.Err()
}

// subject is what is to be known of a run that was drawn.
func (a *auditor) subject(ctx context.Context, digest string) (*subject, error) {
	m, err := a.st.Manifest(digest)
	if err != nil {
		return nil, err
	}
	s := &subject{st: a.st, manifest: m}
	if err := json.Unmarshal(m.Spec, &s.spec); err != nil {
		return nil, fmt.Errorf("run %.12s: reading its spec: %w", digest, err)
	}
	s.epochs = s.spec.Epochs
	if a.o.Epochs > 0 {
		s.epochs = min(s.epochs, a.o.Epochs)
	}
	name := a.o.Backend
	if name == "" {
		name = s.spec.Backend.Name
	}
	if s.again, err = a.backend(ctx, name); err != nil {
		return nil, err
	}
	s.bits = s.bitsClaimed()
	return s, nil
}

// backend prepares a backend.
func (a *auditor) backend(ctx context.Context, name string) (*used, error) {
	if u := a.backends[name]; u != nil {
		return u, nil
	}
	b, err := a.o.Start(name)
	if err != nil {
		return nil, err
	}
	p, err := b.Launch(ctx, os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("starting the backend (--backend trains with another one): %w", err)
	}
	defer p.Close()
	u := &used{sha256: b.SHA256}
	if u.desc, err = p.Describe(ctx); err != nil {
		return nil, fmt.Errorf("asking the backend to describe itself: %w", err)
	}
	u.Retrainer, err = reproduce.NewRetrainer(a.st, reproduce.RetrainOptions{
		Launch: b.Launch, Device: a.o.Device, Threads: max(1, a.o.Threads), Restarts: 2, OtherNumerics: true, Progress: a.meter,
	})
	if err != nil {
		return nil, err
	}
	a.backends[name] = u
	device := u.desc.Devices[0]
	for _, v := range u.desc.Devices {
		if v.Name == a.o.Device {
			device = v
		}
	}
	a.receipt.Backends = append(a.receipt.Backends, store.Backend{
		Name: u.desc.Name, Version: u.desc.Version, Numerics: u.desc.Numerics, Determinism: u.desc.Determinism,
		Device: device.Name + ": " + device.Info, Driver: device.Driver, Threads: max(1, a.o.Threads), SHA256: u.sha256,
	})
	return u, nil
}

// subject is a run to audit.
type subject struct {
	st       *store.Store
	manifest *store.Manifest
	spec     train.Spec
	epochs   int // to train again
	again    *used
	bits     bool // must be the same
}

// bitsClaimed reports whether the backend claims that what it computes here has the
// bits of what it computed there. What the manifest says of the backend is not asked:
// whoever forges a run would have it claim nothing.
func (s *subject) bitsClaimed() bool {
	d, was := s.again.desc, s.spec.Backend
	if d.Name != was.Name || d.Numerics != was.Numerics {
		return false
	}
	if d.Determinism == backend.DeterminismMachine {
		return true
	}
	here, there := reproduce.Host(), s.manifest.Host
	return d.Determinism == backend.DeterminismThreads && here == there
}

// work is what judging the run takes, in the unit of train.Spec.Work.
func (s *subject) work() float64 {
	once := s.spec.Work()/float64(s.spec.Epochs)*float64(s.epochs) + s.spec.ValidationWork()
	if s.bits {
		return once
	}
	return once * (1 + disturbances)
}
