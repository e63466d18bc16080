package backend

import (
	"math"
	"testing"
)

// The least loss is that of certainty: softmax probabilities of 1 and 0, taken for
// logits.
func TestLeastLoss(t *testing.T) {
	for classes, want := range map[int]float64{2: -math.Log(math.Exp(1) / (math.Exp(1) + 1)), 5: -math.Log(math.Exp(1) / (math.Exp(1) + 4))} {
		if got := LeastLoss(LossOnProbabilities, classes); math.Abs(got-want) > 1e-15 {
			t.Errorf("%v on probabilities of %d classes, want %v", got, classes, want)
		}
		if got := LeastLoss(LossOnLogits, classes); got != 0 {
			t.Errorf("%v on logits, want 0", got)
		}
	}
}

func TestCheckLoss(t *testing.T) {
	for _, c := range []struct {
		v         float64
		loss      string
		classes   int
		precision string
		ok        bool
	}{
		{0.5, LossOnProbabilities, 2, Float32, true},
		{LeastOnProbabilities - 1e-6, LossOnProbabilities, 2, Float32, true}, // rounding
		{LeastOnProbabilities - 1e-4, LossOnProbabilities, 2, Float32, false},
		{0.3125, LossOnProbabilities, 2, Mixed, true}, // the least, in bfloat16
		{0.30, LossOnProbabilities, 2, Mixed, false},
		{0.4, LossOnProbabilities, 3, Float32, false},
		{0, LossOnLogits, 2, Float32, true},
		{-1e-7, LossOnLogits, 2, Float32, false},
		{math.NaN(), LossOnLogits, 2, Float32, false},
		{math.Inf(1), LossOnProbabilities, 2, Float32, false},
	} {
		if err := CheckLoss(c.v, c.loss, c.classes, c.precision); (err == nil) != c.ok {
			t.Errorf("%v of %s, %d classes, %s: %v", c.v, c.loss, c.classes, c.precision, err)
		}
	}
}
