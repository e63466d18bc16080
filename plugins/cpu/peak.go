package cpu

import (
	"sync"
	"time"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// PeakGFLOPS measures how many 10⁹ single-precision operations a second that
// many threads do in nothing but fused multiply-adds, two operations each: the
// yardstick of benchmarks. It is 0 where multiply-adds are emulated.
func PeakGFLOPS(threads int) float64 {
	set, err := kernel.Select("")
	if err != nil || set.Peak == nil {
		return 0
	}
	const rounds, n = 20, 1 << 19 // about 2 ms a round
	best := 0.0
	for range rounds {
		var wg sync.WaitGroup
		start := time.Now()
		for range threads {
			wg.Go(func() { set.Peak(n) })
		}
		wg.Wait()
		best = max(best, float64(threads)*kernel.PeakFlops*n/time.Since(start).Seconds()/1e9)
	}
	return best
}
