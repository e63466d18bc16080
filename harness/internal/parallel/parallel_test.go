package parallel

import (
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	for _, n := range []int{0, 1, 2, 1000} {
		seen := make([]atomic.Int32, n)
		if err := Each(n, func(i int) error { seen[i].Add(1); return nil }); err != nil {
			t.Fatal(err)
		}
		for i := range seen {
			if c := seen[i].Load(); c != 1 {
				t.Fatalf("%d of %d was called %d times", i, n, c)
			}
		}
	}
	// Those below the first that fails have been begun, so that it is the one returned.
	first, later := errors.New("first"), errors.New("later")
	for range 100 {
		err := Each(1000, func(i int) error {
			switch {
			case i == 3:
				return first
			case i > 3:
				return later
			}
			return nil
		})
		if err != first {
			t.Fatalf("returned %v", err)
		}
	}
}
