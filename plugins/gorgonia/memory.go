package gorgonia

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// floats is how many numbers a run of the graph holds: those that the arena lends
// when the operators run in the order in which the tape machine runs them, and those
// that Gorgonia's own operators allocate.
func (b *builder) floats() (lent, others int64, err error) {
	sorted, err := G.Sort(b.graph)
	if err != nil {
		return 0, 0, err
	}
	slices.Reverse(sorted)
	free := map[int]int{}     // how many of a length lie idle
	uses := map[*G.Node]int{} // readers to come of what is lent and not kept
	for _, n := range sorted {
		o := own(n)
		if o == nil {
			if n.Op() != nil {
				others += int64(n.Shape().TotalSize())
			}
			continue
		}
		if !o.out.IsScalar() {
			size := o.out.TotalSize()
			if free[size] > 0 {
				free[size]--
			} else {
				lent += int64(size)
			}
			if o.uses > 0 {
				uses[n] = o.uses
			}
		}
		for _, in := range b.inputs[o] {
			if left, ok := uses[in]; ok {
				if uses[in] = left - 1; left == 1 {
					delete(uses, in)
					free[in.Shape().TotalSize()]++
				}
			}
		}
	}
	return lent, others, nil
}

// memory is what a session takes for batches of one size.
func memory(g *nn.Graph, o engine.Options, r backend.MemoryRequest) (int64, error) {
	made, err := compile(g, o)
	if err != nil {
		return 0, err
	}
	defer made.Close()
	e := made.(*network)
	q := request{shape: []int{r.Batch, g.Input.Shape[1], r.Height, r.Width}}
	z, err := scored(g, o.Loss)
	switch {
	case r.Training && err != nil:
		return 0, err
	case r.Training:
		q.training, q.scored = true, z
	default:
		q.targets = []string{g.Output.Name}
	}
	p, err := newPlan(g, e.exec, e.weights, q)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return e.needs(p), nil
}

// needs is the memory in bytes of the network, its optimiser and a run of the plan.
func (e *network) needs(p *plan) int64 {
	floats := p.lent + p.others + int64(p.images.Shape().TotalSize())
	if p.labels != nil {
		floats += int64(p.labels.Shape().TotalSize())
	}
	for _, w := range e.weights {
		floats += int64(w.Shape().TotalSize())
	}
	for _, m := range e.adam.m {
		floats += 2 * int64(m.Shape().TotalSize())
	}
	bytes := 4 * floats
	if e.exec.gpu != nil {
		bytes += p.scratch()
	}
	return bytes
}

// within refuses a run that would take more memory than the device has.
func within(shape []int, bytes int64, x *executor) error {
	if bytes > x.limit {
		const gib = 1 << 30
		return fmt.Errorf("input shape %v needs %.1f GiB, %s has %.1f: use smaller images or batches", shape, float64(bytes)/gib, x.name, float64(x.limit)/gib)
	}
	return nil
}

// machineMemory is what this process may use at most, as far as Linux says: the
// machine's or its control group's; else a bound that no shape from outside should
// reach.
func machineMemory() int64 {
	most := int64(1) << 40
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err == nil {
			most = kib << 10
		}
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			most = min(most, n)
		}
	}
	return most
}
