package train

import (
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

func TestCheckHistory(t *testing.T) {
	s := Spec{
		Stage: study.SingleRun, Network: nn.UNetOptions{Width: 4, Classes: 2}, Loss: backend.LossOnProbabilities,
		Backend: Arithmetic{Precision: backend.Float32}, Validation: []Set{{Name: "a"}, {Name: "b"}}, Target: "a",
		Epochs: 2, LearningRate: 1e-3, Decay: 0.5,
	}
	history := func() *store.History {
		epoch := func(rate, loss float64) store.Epoch {
			return store.Epoch{LearningRate: rate, TrainLoss: 0.5, Validation: map[string]store.Score{"a": {Loss: loss, Dice: 0.9}, "b": {Loss: 0.6}}}
		}
		return &store.History{Stage: study.SingleRun, Target: "a", Best: 2, Epochs: []store.Epoch{epoch(1e-3, 0.5), epoch(5e-4, 0.4)}}
	}
	if err := s.checkHistory(history()); err != nil {
		t.Fatal(err)
	}
	for want, harm := range map[string]func(h *store.History){
		"is of a transfer run": func(h *store.History) { h.Stage = study.TransferRun },
		"1 epochs, not 2":      func(h *store.History) { h.Epochs = h.Epochs[:1] },
		"its best epoch is 1, the lowest loss on a is that of epoch 2": func(h *store.History) { h.Best = 1 },
		"epoch 2: its learning rate is 0.001, not 0.0005":              func(h *store.History) { h.Epochs[1].LearningRate = 1e-3 },
		"epoch 1: its training loss is 0.2, below 0.313262":            func(h *store.History) { h.Epochs[0].TrainLoss = 0.2 },
		"epoch 2: its validation loss on a is 0.1, below":              func(h *store.History) { h.Epochs[1].Validation["a"] = store.Score{Loss: 0.1} },
		"epoch 2: its validation loss on b is NaN":                     func(h *store.History) { h.Epochs[1].Validation["b"] = store.Score{Loss: math.NaN()} },
		"epoch 2: its Dice coefficient on a is 1.5":                    func(h *store.History) { h.Epochs[1].Validation["a"] = store.Score{Loss: 0.4, Dice: 1.5} },
		"epoch 1: it was validated on \"c\"":                           func(h *store.History) { h.Epochs[0].Validation["c"] = store.Score{Loss: 0.4} },
		"epoch 1: it was validated on 1 of 2 domains":                  func(h *store.History) { delete(h.Epochs[0].Validation, "b") },
	} {
		h := history()
		harm(h)
		if err := s.checkHistory(h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
