package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// Options of Generate. None of them changes a bit of the result.
type Options struct {
	// Workers is the number of structures simulated at a time; 0 is one per
	// available processor.
	Workers int
	// DropWaves does not keep the exit waves that are simulated: at the study's
	// size a structure's take 25 MiB. Other conditions then need the structure
	// simulated again. Waves that are there are used, and stay.
	DropWaves bool
	// Progress counts structures and is told of sets that are damaged and made
	// again; nil for none.
	Progress progress.Meter

	disk files.Disk // another in tests
	// newSimulator stands in for hrtem.NewSimulator in tests.
	newSimulator func(hrtem.Config) (simulator, error)
}

// simulator is the part of hrtem.Simulator used here.
type simulator interface {
	Specimen(ctx context.Context, seed uint64, split string, index int) (*hrtem.Specimen, error)
	Image(ctx context.Context, sp *hrtem.Specimen, c hrtem.Conditions, rng *rand.Rand, dst []float32) (float64, error)
}

// group is the sources that share exit waves.
type group struct {
	source Source // its conditions are those of the first, its count the largest
	dir    string // of the exit waves
	disk   files.Disk
	wanted []wanted
	sim    func() (simulator, error)
	left   atomic.Int64 // structures
}

type wanted struct {
	source Source
	dir    string // of the set
}

// writable returns an error if what a group lacks could not be written, before
// any work is done on it.
func (g *group) writable() error {
	dirs := []string{g.dir}
	for _, w := range g.wanted {
		dirs = append(dirs, w.dir, w.parts())
	}
	for _, dir := range dirs {
		if err := files.Writable(dir); err != nil {
			return err
		}
	}
	return nil
}

func (w wanted) parts() string { return filepath.Join(w.dir, "parts") }

// finished reports whether the set exists: another process may have made it.
func (w wanted) finished() bool {
	_, err := os.Stat(filepath.Join(w.dir, manifestFile))
	return err == nil
}

// Generate makes the sets of images that are not there yet below the artifacts
// folder root and returns all of them in the order of sources. Structures are
// simulated once, in parallel, for all the conditions that ask for them.
//
// When ctx is done Generate returns its error soon; a later call goes on from the
// structures that were finished.
func Generate(ctx context.Context, root string, sources []Source, opt Options) ([]Ready, error) {
	for _, s := range sources {
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("data set of %s, %s: %w", s.Config.Crystal, s.Split, err)
		}
	}
	if opt.newSimulator == nil {
		opt.newSimulator = func(c hrtem.Config) (simulator, error) { return hrtem.NewSimulator(c) }
	}
	groups, err := missing(ctx, root, sources, opt)
	if err != nil {
		return nil, err
	}
	if err := simulate(ctx, groups, opt); err != nil {
		return nil, err
	}
	for _, g := range groups {
		for _, w := range g.wanted {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := assemble(opt.disk, w); err != nil {
				return nil, err
			}
		}
	}
	ready := make([]Ready, len(sources))
	for i, s := range sources {
		if ready[i], err = Find(root, s.Digest()); err != nil {
			return nil, err
		}
	}
	return ready, nil
}

// missing groups the sources whose sets are not finished.
func missing(ctx context.Context, root string, sources []Source, opt Options) ([]*group, error) {
	var groups []*group
	byWaves := map[string]*group{}
	seen := map[string]bool{}
	for _, s := range sources {
		digest := s.Digest()
		if seen[digest] {
			continue
		}
		seen[digest] = true
		w := wanted{s, filepath.Join(dataDir(root), digest)}
		if _, err := findOrClear(ctx, opt.disk, root, digest, progress.Or(opt.Progress).Printf); err == nil {
			opt.disk.RemoveAll(w.parts())                   // of no use where a process died before it removed them
			files.Touch(filepath.Join(w.dir, manifestFile)) // for those who ask what is in use; where it fails it is older than it need be
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		waves := s.Specimens()
		g := byWaves[waves]
		if g == nil {
			g = &group{
				source: s,
				dir:    filepath.Join(dataDir(root), waves),
				disk:   opt.disk,
				sim:    sync.OnceValues(func() (simulator, error) { return opt.newSimulator(s.Config) }),
			}
			byWaves[waves] = g
			groups = append(groups, g)
		}
		g.source.Count = max(g.source.Count, s.Count)
		g.wanted = append(g.wanted, w)
	}
	return groups, nil
}

// job is one structure to make.
type job struct {
	g *group
	i int
}

// errBusy says that another process is making a structure.
var errBusy = errors.New("another process is making this structure")

// simulate makes every part that the groups want. What another process is
// making is left for a second pass, which waits for it.
func simulate(ctx context.Context, groups []*group, opt Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := opt.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var all []job
	for _, g := range groups {
		if err := g.writable(); err != nil {
			return err
		}
		g.left.Store(int64(g.source.Count))
		for i := range g.source.Count {
			all = append(all, job{g, i})
		}
	}

	var mu sync.Mutex
	var busy []job
	meter := progress.Or(opt.Progress)
	if len(all) > 0 {
		meter.Begin("simulating", "structures", float64(len(all)))
		defer meter.End()
	}
	pass := func(jobs []job, wait bool) {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range min(workers, len(jobs)) {
			wg.Go(func() {
				for ctx.Err() == nil {
					n := int(next.Add(1)) - 1
					if n >= len(jobs) {
						return
					}
					j := jobs[n]
					made, err := j.g.claimed(ctx, j.i, opt, wait)
					if err == errBusy {
						mu.Lock()
						busy = append(busy, j)
						mu.Unlock()
						continue
					}
					if err != nil {
						cancel(fmt.Errorf("structure %d of %s, %s: %w", j.i, j.g.source.Config.Crystal, j.g.source.Split, err))
						return
					}
					if j.g.left.Add(-1) == 0 {
						j.g.sim = nil // its tables can go
					}
					if made {
						meter.Add(1)
					} else {
						meter.Skip(1)
					}
				}
			})
		}
		wg.Wait()
	}
	pass(all, false)
	pass(busy, true)
	for _, g := range groups {
		g.disk.Sweep(g.dir, ".claim-") // of processes that died
		g.disk.Remove(g.dir)           // does so only if nothing is kept there
	}
	return context.Cause(ctx)
}

// claimed makes structure i unless another process is at it, in which case it
// waits or returns errBusy. Claims save work and no more: whoever makes a
// structure makes the same bytes. The system ends the claim of a process that
// dies. It says whether anything was left to make.
func (g *group) claimed(ctx context.Context, i int, opt Options, wait bool) (made bool, err error) {
	if len(g.todo(i)) == 0 {
		return false, nil
	}
	if err := g.disk.Mkdir(g.dir); err != nil {
		return false, err
	}
	claim := files.TryLock
	if wait {
		claim = func(path string) (*files.Lock, error) { return files.WaitLock(ctx, path) }
	}
	lock, err := claim(filepath.Join(g.dir, fmt.Sprintf(".claim-%06d", i)))
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		defer lock.Remove()
	case err == files.ErrLocked:
		return false, errBusy
	case errors.Is(err, fs.ErrPermission):
		return false, err
	}
	// A file system without locks gives an error: work is done twice at worst.
	return g.structure(ctx, i, opt)
}

// todo lists the sets that lack the image of structure i.
func (g *group) todo(i int) []wanted {
	var todo []wanted
	for _, w := range g.wanted {
		if i < w.source.Count && !w.finished() && !hasPart(w.parts(), i, g.source.Config) {
			todo = append(todo, w)
		}
	}
	return todo
}

// structure makes the images of structure i that are missing and says
// whether any were.
func (g *group) structure(ctx context.Context, i int, opt Options) (made bool, err error) {
	s := g.source
	todo := g.todo(i) // again: another process may have made some while we waited
	if len(todo) == 0 {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	sim, err := g.sim()
	if err != nil {
		return false, err
	}
	sp, waves, err := loadSpecimen(g.dir, s.Config, i)
	if err != nil { // missing or damaged
		if sp, err = sim.Specimen(ctx, s.Seed, s.Split, i); err != nil {
			return false, err
		}
		if len(sp.Waves) != s.Config.Phonons {
			return false, fmt.Errorf("%d exit waves, want %d", len(sp.Waves), s.Config.Phonons)
		}
		shard, err := encodeSpecimen(s.Config, sp)
		if err != nil {
			return false, err
		}
		waves = contentOf(files.Of("", shard))
		if !opt.DropWaves {
			if err := g.keep(shard, i, sp.Info); err != nil {
				return false, err
			}
		}
	}
	for _, w := range todo {
		p := &part{pixels: make([]float32, s.Config.Crop*s.Config.Crop), label: sp.Label}
		p.Waves, p.Structure = waves, sp.Info
		if p.Defocus, err = sim.Image(ctx, sp, w.source.Conditions, w.source.imageStream(i), p.pixels); err != nil {
			return false, err
		}
		if err := writePart(g.disk, w.parts(), i, s.Config, p); err != nil && !w.finished() {
			return false, err
		}
	}
	return true, nil
}

// keep stores the exit waves of structure i and, with the first of them, what
// the folder holds.
func (g *group) keep(shard []byte, i int, info hrtem.Info) error {
	path := filepath.Join(g.dir, manifestFile)
	if _, err := os.Stat(path); err != nil {
		s := g.source
		if err := writeJSON(g.disk, path, &Manifest{
			Format: Format, Kind: Waves, Digest: s.Specimens(),
			Generator: hrtem.Version, Config: &s.Config, Seed: s.Seed, Split: s.Split,
			PixelSize: s.Config.Cell / float64(s.Config.Output),
		}); err != nil {
			return err
		}
	}
	return saveSpecimen(g.disk, g.dir, shard, i, info)
}

// assemble joins the parts of a set and finishes it.
func assemble(disk files.Disk, w wanted) error {
	s := w.source
	c := s.Config
	n := c.Crop * c.Crop
	pixels := make([]float32, s.Count*n)
	labels := make([]uint8, s.Count*n)
	m := &Manifest{
		Format: Format, Kind: Simulated, Digest: s.Digest(),
		Generator: hrtem.Version, Config: &c, Seed: s.Seed, Split: s.Split,
		Conditions: &s.Conditions, Specimens: s.Specimens(),
		Count: s.Count, Height: c.Crop, Width: c.Crop, Classes: 2,
		PixelSize: c.Cell / float64(c.Output),
	}
	for i := range s.Count {
		p, err := readPart(w.parts(), i, c)
		if err != nil {
			// Another process may have finished the set since and removed them.
			if w.finished() {
				disk.RemoveAll(w.parts())
				return nil
			}
			return err
		}
		copy(pixels[i*n:], p.pixels)
		copy(labels[i*n:], p.label)
		m.Images = append(m.Images, p.Origin)
	}
	if err := writeSet(disk, w.dir, m, pixels, labels); err != nil {
		return err
	}
	disk.RemoveAll(w.parts()) // of no use and no harm if it stays
	return nil
}

// writeSet writes a set's images and then the manifest that makes it exist.
func writeSet(disk files.Disk, dir string, m *Manifest, pixels []float32, labels []uint8) error {
	if err := disk.Mkdir(dir); err != nil {
		return err
	}
	f, err := disk.Create(filepath.Join(dir, imagesFile), func(out io.Writer) error {
		return safetensors.Write(out, []safetensors.Tensor{
			{Name: "images", Shape: []int{m.Count, 1, m.Height, m.Width}, Data: pixels},
			{Name: "labels", Shape: []int{m.Count, m.Height, m.Width}, Data: labels},
		}, map[string]string{"digest": m.Digest})
	})
	if err != nil {
		return err
	}
	if m.Files == nil {
		m.Files = map[string]content{}
	}
	m.Files[imagesFile] = contentOf(f)
	return writeJSON(disk, filepath.Join(dir, manifestFile), m)
}
