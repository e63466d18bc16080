//go:build linux

package fast

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
)

// TestLayers prints where a step's processor time goes on one thread, the table
// of doc.go: REFOCUS_LAYERS=64,64,16 (width, size, batch) go test -v -run Layers.
func TestLayers(t *testing.T) {
	var width, size, n int
	if _, err := fmt.Sscanf(os.Getenv("REFOCUS_LAYERS"), "%d,%d,%d", &width, &size, &n); err != nil {
		t.Skip("prints a table where REFOCUS_LAYERS=width,size,batch is set")
	}
	runtime.LockOSThread()
	clock := func() time.Duration {
		var ts unix.Timespec
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
		return time.Duration(ts.Nano())
	}
	e := compiled(t, unet(t, width), options(1))
	b := batch(n, size, size)
	var best []engine.Phase
	for range 4 {
		phases, err := e.Profile(b, nil, clock)
		if err != nil {
			t.Fatal(err)
		}
		if best == nil {
			best = phases
		}
		for i, p := range phases {
			best[i].Time = min(best[i].Time, p.Time)
		}
	}
	peak := e.Peak() / 1e9
	total, sums := time.Duration(0), map[string]time.Duration{}
	for _, p := range best {
		total += p.Time
		sums[p.Pass] += p.Time
		if p.MultiplyAdds > 0 {
			speed := 2 * float64(p.MultiplyAdds) / float64(p.Time.Nanoseconds())
			fmt.Printf("%-30s %-16s %7.2f ms %6.1f GFLOPS %5.2f of peak\n", p.Layer, p.Pass, p.Time.Seconds()*1e3, speed, speed/peak)
		}
	}
	fmt.Printf("total %.1f ms at a peak of %.1f GFLOPS: %v\n", total.Seconds()*1e3, peak, sums)
}
