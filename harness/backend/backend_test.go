package backend

import (
	"math"
	"testing"
)

// The least loss is that of certainty: softmax probabilities of 1 and 0, taken for
// logits.
func TestLeastLoss(t *testing.T) {
	if got, want := LeastLoss(LossOnProbabilities), -math.Log(math.Exp(1)/(math.Exp(1)+math.Exp(0))); math.Abs(got-want) > 1e-15 {
		t.Errorf("%v on probabilities, want %v", got, want)
	}
	if got := LeastLoss(LossOnLogits); got != 0 {
		t.Errorf("%v on logits, want 0", got)
	}
}
