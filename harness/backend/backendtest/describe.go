package backendtest

import (
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
)

func (s *suite) describe(c *check) {
	d, err := s.backend.Describe(c.ctx)
	c.must(err, "Describe")
	s.report.Description = d
	if d.Name == "" || d.Version == "" || d.Numerics == "" {
		c.failf("name %q, version %q and numerics %q must all be given", d.Name, d.Version, d.Numerics)
	}
	if !slices.Contains([]string{backend.DeterminismNone, backend.DeterminismRun, backend.DeterminismThreads, backend.DeterminismMachine}, d.Determinism) {
		c.failf("unknown determinism %q", d.Determinism)
	}
	if !slices.Contains(d.Precisions, backend.Float32) {
		c.failf("precision float32 is not offered")
	}
	if !slices.Contains(d.Losses, backend.LossOnProbabilities) {
		c.failf("the study's loss %q is not offered", backend.LossOnProbabilities)
	}
	if len(d.Devices) == 0 {
		c.failf("no device")
	}
	kind := ""
	for _, v := range d.Devices {
		if v.Name == "" || v.Kind == "" {
			c.failf("a device has no name or kind: %+v", v)
		}
		if s.options.Device == v.Name || s.options.Device == "" && kind == "" {
			kind = v.Kind
		}
	}
	if kind == "" {
		c.failf("there is no device %q", s.options.Device)
	}
	for _, op := range []string{"Conv", "BatchNormalization", "Relu", "MaxPool", "Resize", "Concat", "Add", "Softmax"} {
		if !slices.ContainsFunc(d.Operators, func(o backend.Operator) bool { return o.Type == op }) {
			c.failf("operator %s, which the study's network needs, is not offered", op)
		}
	}
	again, err := s.backend.Describe(c.ctx)
	c.must(err, "Describe again")
	if fmt.Sprint(again) != fmt.Sprint(d) {
		c.failf("a second answer differs: %v, then %v", d, again)
	}
	c.detail = fmt.Sprintf("%s %s, numerics %s, determinism %s", d.Name, d.Version, d.Numerics, d.Determinism)
}
