package train

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/study"
)

func TestSubset(t *testing.T) {
	all, err := subset(1, "defocus -10 nm", 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	sorted := slices.Sorted(slices.Values(all))
	for i, v := range sorted {
		if v != i {
			t.Fatalf("not a permutation at %d", i)
		}
	}
	for _, n := range []int{0, 64, 128, 256} {
		s, err := subset(1, "defocus -10 nm", 512, n)
		if err != nil || !slices.Equal(s, all[:n]) {
			t.Errorf("the subset of %d is not the start of that of 512 (%v)", n, err)
		}
	}
	for name, other := range map[string][]int{
		"seed":   must(subset(2, "defocus -10 nm", 512, 512)),
		"domain": must(subset(1, "defocus +10 nm", 512, 512)),
	} {
		if slices.Equal(all, other) {
			t.Errorf("the %s does not change the order", name)
		}
	}
	// A change here changes every training: raise Format.
	if got, want := all[:6], []int{413, 253, 173, 137, 166, 391}; !slices.Equal(got, want) {
		t.Errorf("subset starts with %v, want %v", got, want)
	}
	if _, err := subset(1, "x", 10, 11); err == nil {
		t.Error("11 images of 10")
	}
}

func must(s []int, err error) []int {
	if err != nil {
		panic(err)
	}
	return s
}

// Every symmetry of every chosen image appears exactly once an epoch, in an
// order that changes with seed, run, stage and epoch, and with nothing else.
func TestBatches(t *testing.T) {
	s := job(t).Spec
	samples, err := s.samples()
	if err != nil {
		t.Fatal(err)
	}
	first := s.batches(samples, 0)
	seen := map[backend.Sample]bool{}
	images := map[string]map[int]bool{}
	for i, b := range first {
		if len(b) != s.BatchSize {
			t.Errorf("batch %d has %d samples", i, len(b))
		}
		for _, x := range b {
			if seen[x] {
				t.Errorf("%v appears twice", x)
			}
			seen[x] = true
			if images[x.Dataset] == nil {
				images[x.Dataset] = map[int]bool{}
			}
			images[x.Dataset][x.Index] = true
		}
	}
	if len(seen) != 6*8 || len(images["train/x"]) != 4 || len(images["train/y"]) != 2 {
		t.Errorf("%d samples of %d and %d images", len(seen), len(images["train/x"]), len(images["train/y"]))
	}
	// A change here changes every training: raise Format.
	if got, want := fmt.Sprint(first[0][:4]), "[{train/x 2 4} {train/x 4 5} {train/x 5 0} {train/x 3 1}]"; got != want {
		t.Errorf("the epoch starts with %s, want %s", got, want)
	}
	if !reflect.DeepEqual(s.batches(samples, 0), first) {
		t.Error("the same epoch differs")
	}
	if reflect.DeepEqual(s.batches(samples, 1), first) {
		t.Error("the epoch does not change the order")
	}
	for name, change := range map[string]func(*Spec){
		"seed":  func(s *Spec) { s.Seed++ },
		"run":   func(s *Spec) { s.Stream += "x" },
		"stage": func(s *Spec) { s.Stage = study.TransferRun },
	} {
		other := s
		change(&other)
		if reflect.DeepEqual(other.batches(samples, 0), first) {
			t.Errorf("the %s does not change the order", name)
		}
	}

	s.BatchSize, s.Dihedral = 4, false
	if samples, err = s.samples(); err != nil {
		t.Fatal(err)
	}
	if b := s.batches(samples, 0); len(b) != 2 || len(b[0]) != 4 || len(b[1]) != 2 {
		t.Errorf("6 samples in batches of 4: %v", b)
	}
	s.Data[0].Of = 3
	if _, err := s.samples(); err == nil {
		t.Error("4 images of 3")
	}
}

// Every order of four is as likely as any other: χ² with 23 degrees of freedom
// stays below 49.7 with probability 0.999; the stream is fixed, so the test is.
func TestShuffleIsUniform(t *testing.T) {
	rng := random.Stream(3, "test")
	const n = 24000
	count := map[[4]int]int{}
	for range n {
		s := []int{0, 1, 2, 3}
		shuffle(rng, s)
		count[[4]int(s)]++
	}
	chi := 0.0
	for _, c := range count {
		d := float64(c) - n/24
		chi += d * d / (n / 24)
	}
	if len(count) != 24 || chi > 49.7 {
		t.Errorf("%d orders, χ² = %.1f", len(count), chi)
	}
}
