package dataset

import (
	"reflect"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

func TestSubset(t *testing.T) {
	all, err := Subset(1, "defocus -10 nm", 512, 512)
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
		s, err := Subset(1, "defocus -10 nm", 512, n)
		if err != nil || !slices.Equal(s, all[:n]) {
			t.Errorf("the subset of %d is not the start of that of 512 (%v)", n, err)
		}
	}
	for name, other := range map[string][]int{
		"seed":   must(Subset(2, "defocus -10 nm", 512, 512)),
		"domain": must(Subset(1, "defocus +10 nm", 512, 512)),
	} {
		if slices.Equal(all, other) {
			t.Errorf("the %s does not change the order", name)
		}
	}
	// A change here changes every training: raise Format.
	if got, want := all[:6], []int{413, 253, 173, 137, 166, 391}; !slices.Equal(got, want) {
		t.Errorf("subset starts with %v, want %v", got, want)
	}
	if _, err := Subset(1, "x", 10, 11); err == nil {
		t.Error("11 images of 10")
	}
}

func must(s []int, err error) []int {
	if err != nil {
		panic(err)
	}
	return s
}

func TestEpoch(t *testing.T) {
	parts := []Part{{0, []int{3, 1}}, {2, []int{7, 8, 9, 3}}}
	o := EpochOptions{Seed: 1, Run: "r", Stage: "pretrain", Dihedral: true, Batch: 16}
	flat := func(o EpochOptions) []Sample {
		b, err := Epoch(parts, o)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range b {
			if len(s) != o.Batch && i != len(b)-1 {
				t.Errorf("batch %d has %d samples", i, len(s))
			}
		}
		return slices.Concat(b...)
	}
	base := flat(o)
	count := map[Sample]int{}
	for _, s := range base {
		count[s]++
	}
	if len(base) != 48 || len(count) != 48 {
		t.Fatalf("%d samples, %d different, want 48", len(base), len(count))
	}
	for _, p := range parts {
		for _, i := range p.Indices {
			for d := range uint8(8) {
				if count[Sample{p.Set, i, d}] != 1 {
					t.Errorf("set %d image %d symmetry %d: %d times", p.Set, i, d, count[Sample{p.Set, i, d}])
				}
			}
		}
	}
	if !reflect.DeepEqual(flat(o), base) {
		t.Error("the same epoch differs")
	}
	for name, change := range map[string]func(*EpochOptions){
		"seed":  func(o *EpochOptions) { o.Seed = 2 },
		"run":   func(o *EpochOptions) { o.Run = "s" },
		"stage": func(o *EpochOptions) { o.Stage = "transfer" },
		"epoch": func(o *EpochOptions) { o.Epoch = 1 },
	} {
		other := o
		change(&other)
		if reflect.DeepEqual(flat(other), base) {
			t.Errorf("the %s does not change the order", name)
		}
	}
	o.Batch, o.Dihedral = 4, false
	b, err := Epoch(parts, o)
	if err != nil || len(b) != 2 || len(b[0]) != 4 || len(b[1]) != 2 {
		t.Errorf("6 samples in batches of 4: %v, %v", b, err)
	}
	if _, err := Epoch(nil, o); err == nil {
		t.Error("an epoch of nothing")
	}
	if _, err := Epoch(parts, EpochOptions{}); err == nil {
		t.Error("batches of nothing")
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
