package crosscheck

import (
	"fmt"
	"io"

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
	Freezing   = "freezing"
	Trajectory = "trajectory"
)

// Stages lists the stages in order.
var Stages = []string{Forward, Statistics, Inference, Loss, Gradients, Optimiser, Freezing, Trajectory}

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
	Limit    float64 `json:"limit"` // on A's relative distance
	Pass     bool    `json:"pass"`
	Note     string  `json:"note,omitempty"`
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

	Checks     []Check `json:"checks"`
	Trajectory []Curve `json:"trajectory"`
	// First is the first check that failed, in the order of Stages and within a
	// stage in the order of cause.
	First *Check `json:"first,omitempty"`
}

// Pass reports whether every comparison passed.
func (c *Certificate) Pass() bool { return c.First == nil && len(c.Checks) > 0 }

// Verdict is one sentence.
func (c *Certificate) Verdict() string {
	a, b := c.A.Description.Name, c.B.Description.Name
	if c.Pass() {
		return fmt.Sprintf("%s agrees with %s: all %d comparisons are within their limits.", a, b, len(c.Checks))
	}
	f := c.First
	s := fmt.Sprintf("%s parts from %s at %s, %s: relative distance %s, limit %s", a, b, f.Stage, f.Place, format.Digits(f.A.Relative, 2), format.Digits(f.Limit, 2))
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s + "."
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
			if worst == nil || k.A.Relative/k.Limit > worst.A.Relative/worst.Limit {
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
		fmt.Fprintf(w, "%s  %-24s %4d comparisons, closest to its limit: %s (%s of %s)\n", mark, stage, n, worst.Place, format.Digits(worst.A.Relative, 2), format.Digits(worst.Limit, 2))
	}
	fmt.Fprintf(w, "steps: %s %s, %s %s\n", c.A.Description.Name, format.Milliseconds(c.A.StepSeconds), c.B.Description.Name, format.Milliseconds(c.B.StepSeconds))
	fmt.Fprintln(w, c.Verdict())
}
