package random

import "testing"

// The first values of a stream are part of the data format: a change here
// changes every data set and every trained weight.
func TestStreamIsPinned(t *testing.T) {
	got := Stream(1, "test", 2, 3).Uint64()
	const want = 0xc635c035849a44b5
	if got != want {
		t.Errorf("first value %#x, want %#x", got, uint64(want))
	}
}

func TestStreamsDiffer(t *testing.T) {
	seen := map[uint64]string{}
	for name, r := range map[string]uint64{
		"base":          Stream(1, "a").Uint64(),
		"seed":          Stream(2, "a").Uint64(),
		"purpose":       Stream(1, "b").Uint64(),
		"index":         Stream(1, "a", 0).Uint64(),
		"index order":   Stream(1, "a", 1, 2).Uint64(),
		"index reverse": Stream(1, "a", 2, 1).Uint64(),
	} {
		if other, ok := seen[r]; ok {
			t.Errorf("%s and %s share a stream", name, other)
		}
		seen[r] = name
	}
}
