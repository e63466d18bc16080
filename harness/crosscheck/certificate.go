package crosscheck

import (
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// Stages of a cross-check, in the order in which a fault is looked for.
const (
	Forward    = "forward, training mode"
	Statistics = "running statistics"
	Inference  = "forward, inference mode"
	Loss       = "loss"
	Gradients  = "gradients"
	Optimiser  = "optimiser"
	LongRun    = "every step of a longer run"
	Freezing   = "freezing"
	Trajectory = "trajectory"
	// Training is the only stage of Converge.
	Training = "training as a whole"
)

// Stages lists the stages in order.
var Stages = []string{Forward, Statistics, Inference, Loss, Gradients, Optimiser, LongRun, Freezing, Trajectory, Training}

// What a check is judged by.
const (
	// ByBound is by the most that rounding errors can add up to, and by the length
	// of the errors that is expected of them: Check.Bound and Check.Local.
	ByBound = "bound"
	// ByNoise is by what disturbing the reference at every operation does to a
	// result, as roundings do: Check.Local by Check.Expected.
	ByNoise = "rounding noise"
	// ByYardstick is by a multiple of the yardstick's own distance.
	ByYardstick = "yardstick"
	// ByMargin is by what Trials.Margin allows of the spread over seeds.
	ByMargin = "margin"
	// Exactly admits no difference.
	Exactly = "exact"
)

// Check is one comparison.
type Check struct {
	Stage    string   `json:"stage"`
	Place    string   `json:"place"`              // node, parameter or step
	Operator string   `json:"operator,omitempty"` // of the node
	A        Distance `json:"a"`                  // of A to what it is judged by
	B        Distance `json:"b"`                  // of B, where B is a yardstick
	// Rounding is the oracle's own sensitivity: the relative distance that one
	// float32 rounding of the weights makes.
	Rounding float64 `json:"rounding,omitempty"`
	// Yardstick is Options.Factor times the larger of B's distance and of Rounding,
	// or the floor: what A's distance to the oracle has been found to stay below. It
	// decides only where nothing else does.
	Yardstick float64 `json:"yardstick,omitempty"`
	// Bound is the largest error of a single value as a part of the most that the
	// errors of its operations can add up to, in any order, given A's own operands.
	Bound float64 `json:"bound,omitempty"`
	// Local is the relative distance to what A should have computed of its own
	// operands, a gradient of its own activations, Expected that which roundings are expected to make.
	Local    float64 `json:"local,omitempty"`
	Expected float64 `json:"expected,omitempty"`
	Limit    float64 `json:"limit"` // on Local by bound or noise, else on A's relative distance
	Judged   string  `json:"judged"`
	Pass     bool    `json:"pass"`
	Note     string  `json:"note,omitempty"`
}

// judged is the relative distance that Limit is on.
func (c *Check) judged() float64 {
	if c.Judged == ByBound || c.Judged == ByNoise || c.Judged == ByMargin {
		return c.Local
	}
	return c.A.Relative
}

// Share is how much of what is allowed a check takes: above 1 it fails. NaN, too, is
// too much.
func (c *Check) Share() float64 {
	part := func(v, limit float64) float64 {
		switch {
		case v == 0:
			return 0
		case math.IsNaN(v):
			return math.Inf(1)
		}
		return v / limit
	}
	return max(part(c.Bound, 1), part(c.judged(), c.Limit))
}

// Said is the outcome in words.
func (c *Check) Said() string {
	d := func(v float64) string { return format.Digits(min(v, math.MaxFloat64), 2) }
	switch {
	case c.Judged == ByBound && c.Bound > math.MaxFloat64/2: // or as JSON has it
		return "an error where none is possible"
	case c.Judged == ByBound && c.Bound > 1 && c.Local > c.Limit:
		return fmt.Sprintf("an error %s times its bound, %s in all where %s is the limit", d(c.Bound), d(c.Local), d(c.Limit))
	case c.Judged == ByBound && c.Bound > 1:
		return fmt.Sprintf("an error %s times its bound", d(c.Bound))
	}
	by := c.Judged
	switch by {
	case ByBound:
		by = "the expected size of rounding errors"
	case ByMargin:
		return fmt.Sprintf("as much as %s standard deviations off, where %s is the margin", d(c.judged()), d(c.Limit))
	case Exactly:
		return fmt.Sprintf("off by %s, which must not be", d(c.judged()))
	}
	return fmt.Sprintf("relative distance %s, limit %s by %s", d(c.judged()), d(c.Limit), by)
}

// Identity of a backend.
type Identity struct {
	Description backend.Description `json:"description"`
	// SHA256 of the executable; "" for one that is part of the harness.
	SHA256 string `json:"sha256,omitempty"`
	// StepSeconds is the median time of a training step, interleaved with the
	// other backend's on the same machine.
	StepSeconds float64 `json:"step_seconds"`
}

// Curve is a loss over training steps.
type Curve struct {
	Name string    `json:"name"`
	Loss []float64 `json:"loss"`
}

// Certificate is the outcome of a cross-check.
type Certificate struct {
	Format  int      `json:"format"`
	A       Identity `json:"a"`
	B       Identity `json:"b"`
	Oracle  Identity `json:"oracle"`
	Machine string   `json:"machine"`
	Network string   `json:"network"`
	Weights string   `json:"weights"` // SHA-256 of the initial weights
	Data    string   `json:"data"`    // SHA-256 of the training images
	Options Options  `json:"options"`
	// NoBounds says why nothing could be judged by bounds, where that is so.
	NoBounds string `json:"no_bounds,omitempty"`

	Checks     []Check `json:"checks"`
	Trajectory []Curve `json:"trajectory,omitempty"`
	// Convergence is what was compared where whole trainings were.
	Convergence *Convergence `json:"convergence,omitempty"`
	// First is the first check that failed, in the order of Stages and within a
	// stage in the order of cause.
	First *Check `json:"first,omitempty"`
}

// Pass reports whether every comparison passed.
func (c *Certificate) Pass() bool { return c.First == nil && len(c.Checks) > 0 }

// Verdict is one sentence.
func (c *Certificate) Verdict() string {
	a, b := c.A.Description.Name, c.B.Description.Name
	if c.Convergence != nil {
		return c.verdictOfTrainings(a, b)
	}
	if c.Pass() {
		return fmt.Sprintf("%s agrees with %s: all %d comparisons are within their limits.", a, b, len(c.Checks))
	}
	f := c.First
	s := fmt.Sprintf("%s parts from %s at %s, %s: %s", a, b, f.Stage, f.Place, f.Said())
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s + "."
}

func (c *Certificate) verdictOfTrainings(a, b string) string {
	if p := c.Options.Precision; p != "" && p != backend.Float32 {
		a += " in " + p
	}
	if c.Pass() {
		return fmt.Sprintf("%s trains as %s does: over %d seeds the means of all %d measures are within the margin.", a, b, c.Convergence.Seeds, len(c.Checks))
	}
	f, said := c.First, "does not train as %s does"
	if !slices.ContainsFunc(c.Convergence.Measures, func(m Measure) bool { return m.Differs }) {
		said = "has not been shown to train as %s does"
	}
	return fmt.Sprintf("%s "+said+": the %s is %s (%s).", a, b, f.Place, f.Said(), f.Note)
}

// Print writes a short summary: per stage the number of comparisons and the
// closest call, then the verdict.
func (c *Certificate) Print(w io.Writer) {
	for _, stage := range Stages {
		n, failed := 0, 0
		var worst *Check
		for i := range c.Checks {
			k := &c.Checks[i]
			if k.Stage != stage {
				continue
			}
			n++
			if !k.Pass {
				failed++
			}
			if worst == nil || k.Share() > worst.Share() {
				worst = k
			}
		}
		if n == 0 {
			continue
		}
		mark := "pass"
		if failed > 0 {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%s  %-24s %4d comparisons, closest to its limit: %s (%s of it, by %s)\n", mark, stage, n, worst.Place, format.Digits(min(worst.Share(), math.MaxFloat64), 2), worst.Judged)
	}
	if c.NoBounds != "" {
		fmt.Fprintf(w, "no bounds: %s\n", c.NoBounds)
	}
	fmt.Fprintf(w, "steps: %s %s, %s %s\n", c.A.Description.Name, format.Milliseconds(c.A.StepSeconds), c.B.Description.Name, format.Milliseconds(c.B.StepSeconds))
	fmt.Fprintln(w, c.Verdict())
}
