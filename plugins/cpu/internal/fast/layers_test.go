package fast

import (
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLayers prints where a step's processor time goes, for the table in
// doc.go: REFOCUS_LAYERS=width,size,batch go test -v -run Layers.
func TestLayers(t *testing.T) {
	spec := os.Getenv("REFOCUS_LAYERS")
	if spec == "" {
		t.Skip("prints a table if REFOCUS_LAYERS=width,size,batch is set")
	}
	var c [3]int
	for i, s := range strings.Split(spec, ",") {
		c[i], _ = strconv.Atoi(s)
	}
	runtime.LockOSThread()
	e := compiled(t, unet(t, c[0]), options(1))
	b := batch(c[2], c[1], c[1])
	if _, err := e.Gradients(b, nil, 1, true); err != nil {
		t.Fatal(err)
	}
	p := e.programs[key{n: c[2], h: c[1], w: c[1], training: true}]
	p.images, p.labels = b.Images, b.Labels
	now := func() float64 {
		var ts unix.Timespec
		unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
		return float64(ts.Nano()) / 1e6
	}
	best := make([]float64, len(p.phases))
	for rep := range 4 {
		for i := range p.phases {
			t0 := now()
			e.pool.run(p.phases[i].tasks, p.phases[i].f)
			if d := now() - t0; rep == 0 || d < best[i] {
				best[i] = d
			}
		}
	}
	sum := map[string]float64{}
	flops := map[string]float64{}
	kind := map[string]float64{}
	total := 0.0
	for i, ph := range p.phases {
		name := ph.name
		if ph.op != nil {
			name = ph.op.node.Name + " " + name
			if o := ph.op; o.weight != nil {
				s := p.tensors[o.out]
				flops[o.node.Name] = 2 * float64(c[2]*s.h*s.w*o.outChannels*o.inChannels*o.taps())
			}
		}
		sum[name] += best[i]
		kind[ph.name] += best[i]
		total += best[i]
	}
	names := make([]string, 0, len(sum))
	for n := range sum {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool { return sum[names[i]] > sum[names[j]] })
	for _, n := range names {
		layer, _, _ := strings.Cut(n, " ")
		if sum[n] > total/200 {
			fmt.Printf("%-60s %8.2f ms %6.1f GFLOPS\n", n, sum[n], flops[layer]/sum[n]/1e6)
		}
	}
	for n, v := range kind {
		fmt.Printf("   %-40s %8.2f ms\n", n, v)
	}
	fmt.Printf("total %.1f ms, program of %d phases, arena %d MiB\n", total, len(p.phases), p.total>>18)
}
