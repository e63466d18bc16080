// Package seed seeds the random tests. A binary of tests that imports it has the
// flag -seed.
package seed

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var given = flag.Uint64("seed", 0, "seed of the random tests; 0 takes one from the clock")

// Rand is a generator with the seed of the flag, or with one from the clock. The
// test's log says which, and how to have it again.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	s := *given
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: the same again with go test -run '^%s$' -seed=%d", s, t.Name(), s)
	return rand.New(rand.NewPCG(s, 0))
}
