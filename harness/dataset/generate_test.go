package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// fake stands in for the simulator: its waves and images name where they come
// from, so that a mix-up shows.
type fake struct {
	config hrtem.Config
	made   *atomic.Int64 // specimens
	before func(index int) error
}

func (f fake) Specimen(ctx context.Context, seed uint64, split string, index int) (*hrtem.Specimen, error) {
	if f.before != nil {
		if err := f.before(index); err != nil {
			return nil, err
		}
	}
	f.made.Add(1)
	sp := &hrtem.Specimen{Label: make([]uint8, f.config.Crop*f.config.Crop)}
	sp.Info = hrtem.Info{Seed: seed, Split: split, Index: index, Crystal: f.config.Crystal, FocusOffset: float64(index) / 7}
	sp.Label[index%len(sp.Label)] = 1
	for p := range f.config.Phonons {
		w := make([]complex64, f.config.Output*f.config.Output)
		for i := range w {
			w[i] = complex(float32(index), float32(p+i))
		}
		sp.Waves = append(sp.Waves, w)
	}
	return sp, ctx.Err()
}

func (f fake) Image(_ context.Context, sp *hrtem.Specimen, c hrtem.Conditions, rng *rand.Rand, dst []float32) (float64, error) {
	if want := complex(float32(sp.Info.Index), 3); sp.Waves[1][2] != complex64(want) {
		return 0, fmt.Errorf("image of structure %d has the waves of another", sp.Info.Index)
	}
	for i := range dst {
		dst[i] = float32(rng.NormFloat64())
	}
	dst[0] = float32(c.Dose)
	return c.Defocus + c.DefocusStd*rng.NormFloat64(), nil
}

func testConfig() hrtem.Config {
	c := hrtem.Reduced("w_CdSe")
	c.Crop = 16
	c.Phonons = 2
	return c
}

// bench is a store, a series of sources over it and a count of simulations.
type bench struct {
	root    string
	made    atomic.Int64
	sources []Source
	opt     Options
}

func newBench(t *testing.T, counts ...int) *bench {
	b := &bench{root: t.TempDir()}
	for _, n := range counts {
		for _, defocus := range []float64{-100, 50} {
			b.sources = append(b.sources, Source{testConfig(), hrtem.Conditions{Defocus: defocus, DefocusStd: 15, Dose: 400}, 7, Train, n})
		}
	}
	b.opt = Options{Workers: 2, newSimulator: func(c hrtem.Config) (simulator, error) { return fake{c, &b.made, nil}, nil }}
	return b
}

func (b *bench) generate(t *testing.T) []Ready {
	t.Helper()
	r, err := Generate(t.Context(), b.root, b.sources, b.opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contents maps every file below dir to its bytes.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		m[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameContents(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

func TestGenerate(t *testing.T) {
	b := newBench(t, 5)
	var told progresstest.Recorder
	b.opt.Progress = &told
	ready := b.generate(t)

	if len(ready) != 2 || b.made.Load() != 5 {
		t.Fatalf("%d sets from %d simulations, want 2 from 5: conditions share structures", len(ready), b.made.Load())
	}
	want := []progresstest.Phase{{Name: "simulating", Unit: "structures", Total: 5, Done: 5, Ended: true}}
	if !reflect.DeepEqual(told.Phases, want) {
		t.Errorf("told %+v, want %+v", told.Phases, want)
	}
	for i, r := range ready {
		s := b.sources[i]
		if r.Digest != s.Digest() || r.Count != 5 || r.Height != 16 || r.Width != 16 || r.Classes != 2 || r.PixelSize != 0.4 {
			t.Errorf("ready %+v", r)
		}
		if err := damageOf(b.root, r.Digest); err != nil {
			t.Error(err)
		}
		if err := (files.File{Size: 8 + 5*16*16*5 + headerLen(t, r.Path), SHA256: r.SHA256}).Check(r.Path); err != nil {
			t.Error(err)
		}
		f, err := safetensors.Open(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		images, err := f.Float32("images")
		if err != nil {
			t.Fatal(err)
		}
		labels := make([]uint8, 5*256)
		if err := f.ReadUint8("labels", 0, labels); err != nil {
			t.Fatal(err)
		}
		m, err := ReadManifest(b.root, r.Digest)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 5 {
			if images[k*256] != 400 || labels[k*256+k] != 1 || m.Images[k].Structure.Index != k {
				t.Errorf("set %d image %d is not that of structure %d", i, k, k)
			}
			if d := m.Images[k].Defocus; d == s.Conditions.Defocus || d < s.Conditions.Defocus-75 || d > s.Conditions.Defocus+75 {
				t.Errorf("actual defocus %v of nominal %v", d, s.Conditions.Defocus)
			}
			w, err := os.ReadFile(filepath.Join(b.root, "data", s.Specimens(), shardName(k)))
			if err != nil || contentOf(files.Of("", w)) != m.Images[k].Waves {
				t.Errorf("manifest of image %d names other exit waves (%v)", k, err)
			}
		}
	}
	if err := damageOf(b.root, b.sources[0].Specimens()); err != nil {
		t.Error(err)
	}
	before := contents(t, b.root)
	b.generate(t)
	if b.made.Load() != 5 {
		t.Error("a second call simulated again")
	}
	sameContents(t, contents(t, b.root), before)
}

func headerLen(t *testing.T, path string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(b[0]) | int64(b[1])<<8
}

// A set of 3 and a set of 6 share their first structures, whichever was first.
func TestGrowing(t *testing.T) {
	small := newBench(t, 3)
	small.generate(t)
	small.sources = newBench(t, 6).sources
	small.generate(t)
	if n := small.made.Load(); n != 6 {
		t.Errorf("%d simulations, want 6", n)
	}
	large := newBench(t, 3, 6) // both sizes in one call
	ready := large.generate(t)
	if n := large.made.Load(); n != 6 {
		t.Errorf("%d simulations, want 6", n)
	}
	sameContents(t, contents(t, small.root), contents(t, large.root))

	a, b := readImages(t, ready[0]), readImages(t, ready[2])
	if !reflect.DeepEqual(a, b[:len(a)]) {
		t.Error("image i depends on the size of the set")
	}
}

func readImages(t *testing.T, r Ready) []float32 {
	t.Helper()
	f, err := safetensors.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.Float32("images")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWorkersAndDropDoNotChangeImages(t *testing.T) {
	want := newBench(t, 7)
	want.opt.Workers = 1
	want.generate(t)
	for _, workers := range []int{2, 5, 16} {
		b := newBench(t, 7)
		b.opt.Workers = workers
		b.generate(t)
		sameContents(t, contents(t, b.root), contents(t, want.root))
	}
	b := newBench(t, 7)
	b.opt.DropWaves = true
	b.generate(t)
	for _, s := range b.sources {
		sameContents(t, contents(t, filepath.Join(b.root, "data", s.Digest())), contents(t, filepath.Join(want.root, "data", s.Digest())))
	}
	if _, err := os.Stat(filepath.Join(b.root, "data", b.sources[0].Specimens())); err == nil {
		t.Error("exit waves were kept")
	}
}

// An interrupted generation keeps what it had and ends with the same bytes.
func TestResume(t *testing.T) {
	want := newBench(t, 6)
	want.generate(t)
	for _, drop := range []bool{false, true} {
		b := newBench(t, 6)
		b.opt.Workers = 1
		b.opt.DropWaves = drop
		ctx, cancel := context.WithCancel(t.Context())
		b.opt.Progress = &progresstest.Recorder{OnAdd: func(p progresstest.Phase) {
			if p.Done == 3 {
				cancel()
			}
		}}
		if _, err := Generate(ctx, b.root, b.sources, b.opt); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want cancelled", err)
		}
		made := b.made.Load()
		for _, s := range b.sources {
			if _, err := Find(b.root, s.Digest()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an unfinished set is found: %v", err)
			}
		}
		var told progresstest.Recorder
		b.opt.Progress = &told
		b.generate(t)
		if p := told.Phases[0]; b.made.Load() != 6 || p.Done != float64(6-made) || p.Skipped != float64(made) {
			t.Errorf("%d simulations in all after %d, told %+v: finished structures were not kept", b.made.Load(), made, p)
		}
		for _, s := range b.sources {
			sameContents(t, contents(t, filepath.Join(b.root, "data", s.Digest())), contents(t, filepath.Join(want.root, "data", s.Digest())))
		}
	}
}

// Whatever a dying machine leaves of a file, the result is the same.
func TestDamage(t *testing.T) {
	want := newBench(t, 4)
	want.generate(t)
	b := newBench(t, 4)
	b.generate(t)
	good := contents(t, b.root)
	sameContents(t, good, contents(t, want.root))
	waves := filepath.Join(b.root, "data", b.sources[0].Specimens())
	set := filepath.Join(b.root, "data", b.sources[0].Digest())

	for _, tt := range []struct {
		name   string
		damage func() error
	}{
		{"shard cut", func() error { return os.Truncate(filepath.Join(waves, shardName(2)), 100) }},
		{"shard changed", func() error { return flip(filepath.Join(waves, shardName(1)), 3000) }},
		{"shard gone", func() error { return os.Remove(filepath.Join(waves, shardName(0))) }},
		{"entry cut", func() error { return os.Truncate(filepath.Join(waves, entryName(3)), 10) }},
		{"temporary left", func() error {
			if err := os.Remove(filepath.Join(waves, entryName(3))); err != nil {
				return err
			}
			left := filepath.Join(waves, ".tmp-"+shardName(3)+"-1") // on another machine
			yesterday := time.Now().Add(-24 * time.Hour)
			return errors.Join(os.WriteFile(left, []byte("x"), 0o644), os.Chtimes(left, yesterday, yesterday))
		}},
		{"empty part", func() error {
			if err := os.MkdirAll(filepath.Join(set, "parts"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(set, "parts", partName(1)), nil, 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The set is to be made again from the exit waves.
			if err := os.Remove(filepath.Join(set, manifestFile)); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(); err != nil {
				t.Fatal(err)
			}
			b.generate(t)
			sameContents(t, contents(t, b.root), good)
		})
	}
}

// A set that is there and damaged is set aside, with a word, and made again.
func TestDamagedSetIsSetAside(t *testing.T) {
	b := newBench(t, 3)
	b.generate(t)
	good := contents(t, b.root)
	data := filepath.Join(b.root, "data")
	digest := b.sources[0].Digest()
	manifest, images := filepath.Join(data, digest, manifestFile), filepath.Join(data, digest, imagesFile)
	for name, harm := range map[string]func() error{
		"manifest cut":   func() error { return os.Truncate(manifest, 200) },
		"manifest empty": func() error { return os.Truncate(manifest, 0) },
		"another manifest": func() error {
			return os.WriteFile(manifest, []byte(good[filepath.Join("data", b.sources[1].Digest(), manifestFile)]), 0o666)
		},
		"images gone": func() error { return os.Remove(images) },
		"link to nothing": func() error {
			return errors.Join(os.RemoveAll(filepath.Dir(images)), os.Symlink("/nowhere", filepath.Dir(images)))
		},
		"images cut": func() error { return os.Truncate(images, 1000) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		told := new(progresstest.Recorder)
		b.opt.Progress = told
		b.generate(t)
		aside := filepath.Join(data, ".damaged")
		if len(told.Messages) != 1 || !strings.Contains(told.Messages[0], "is damaged") || !strings.Contains(told.Messages[0], aside) {
			t.Errorf("%s: told %q", name, told.Messages)
		}
		if sets, err := Sets(b.root); err != nil || len(sets) != 3 { // two of images, one of exit waves
			t.Errorf("%s: sets %v, %v", name, sets, err)
		}
		if err := errors.Join(os.RemoveAll(aside), os.Remove(aside+".lock")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		sameContents(t, contents(t, b.root), good)
	}
}

func flip(path string, offset int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[offset] ^= 1
	return os.WriteFile(path, b, 0o644)
}

func TestVerifyNamesDamage(t *testing.T) {
	b := newBench(t, 3)
	b.generate(t)
	set, waves := b.sources[0].Digest(), b.sources[0].Specimens()
	for _, tt := range []struct{ digest, file string }{
		{set, imagesFile},
		{set, manifestFile},
		{waves, shardName(1)},
		{waves, entryName(2)},
	} {
		path := filepath.Join(b.root, "data", tt.digest, tt.file)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ToUpper(good), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := damageOf(b.root, tt.digest); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(tt.file, filepath.Ext(tt.file))) {
			t.Errorf("damage to %s: error %v", tt.file, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := damageOf(b.root, tt.digest); err == nil {
			t.Errorf("without %s: nothing is found", tt.file)
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := damageOf(b.root, "../../etc"); err == nil {
		t.Error("a path is taken for a digest")
	}
	if err := damageOf(b.root, strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "no such set") {
		t.Errorf("unknown digest: %v", err)
	}
}

func TestTwoProcesses(t *testing.T) {
	b := newBench(t, 8)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Generate(t.Context(), b.root, b.sources, b.opt); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.made.Load(); n != 8 {
		t.Errorf("%d simulations of 8 structures: claims do not work", n)
	}
	want := newBench(t, 8)
	want.generate(t)
	got := contents(t, b.root)
	for name := range got { // a part written after the set was finished does no harm
		if strings.Contains(name, "parts") {
			delete(got, name)
		}
	}
	sameContents(t, got, contents(t, want.root))
}

func TestSimulatorFails(t *testing.T) {
	b := newBench(t, 6)
	broken := errors.New("no lattice")
	b.opt.newSimulator = func(c hrtem.Config) (simulator, error) {
		return fake{c, &b.made, func(i int) error {
			if i == 4 {
				return broken
			}
			return nil
		}}, nil
	}
	b.opt.DropWaves = true
	_, err := Generate(t.Context(), b.root, b.sources, b.opt)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "structure 4 of w_CdSe, train") {
		t.Errorf("error %v", err)
	}
}

func TestDigest(t *testing.T) {
	base := newBench(t, 4).sources[0]
	if d := base.Digest(); len(d) != 64 || d != base.Digest() {
		t.Errorf("digest %s", d)
	}
	for name, change := range map[string]func(*Source){
		"config": func(s *Source) { s.Config.Slice = 1.5 },
		"seed":   func(s *Source) { s.Seed++ },
		"split":  func(s *Source) { s.Split = Validation },
	} {
		s := base
		change(&s)
		if s.Digest() == base.Digest() || s.Specimens() == base.Specimens() {
			t.Errorf("%s does not enter both digests", name)
		}
	}
	for name, change := range map[string]func(*Source){
		"dose":    func(s *Source) { s.Conditions.Dose = 30 },
		"defocus": func(s *Source) { s.Conditions.Defocus = 0 },
		"spread":  func(s *Source) { s.Conditions.DefocusStd = 0 },
		"count":   func(s *Source) { s.Count++ },
	} {
		s := base
		change(&s)
		if s.Digest() == base.Digest() {
			t.Errorf("%s does not enter the digest", name)
		}
		if s.Specimens() != base.Specimens() {
			t.Errorf("%s enters the digest of the exit waves", name)
		}
	}
}

func TestValidate(t *testing.T) {
	good := newBench(t, 4).sources[0]
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	nan := func() float64 { var z float64; return z / z }()
	for want, change := range map[string]func(*Source){
		"defocus":     func(s *Source) { s.Conditions.Defocus = nan },
		"defocus_std": func(s *Source) { s.Conditions.DefocusStd = -1 },
		"dose":        func(s *Source) { s.Conditions.Dose = 0 },
		"number of":   func(s *Source) { s.Count = 0 },
		"split":       func(s *Source) { s.Split = "" },
		"crop":        func(s *Source) { s.Config.Crop = -1 },
	} {
		s := good
		change(&s)
		if _, err := Generate(t.Context(), t.TempDir(), []Source{s}, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
}
