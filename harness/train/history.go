package train

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/store"
)

// ReadHistory reads the history of the finished run that the spec describes. One that
// this spec cannot have is a *files.Damage.
func (s Spec) ReadHistory(st *store.Store, digest string) (*store.History, error) {
	m, err := st.Manifest(digest)
	if err != nil {
		return nil, err
	}
	return s.HistoryOf(st, m)
}

// HistoryOf is ReadHistory for those who have read the run's manifest.
func (s Spec) HistoryOf(st *store.Store, m *store.Manifest) (*store.History, error) {
	h, err := st.HistoryOf(m)
	if err != nil {
		return nil, err
	}
	if err := s.checkHistory(h); err != nil {
		return nil, &files.Damage{
			Path:    filepath.Join(st.RunDir(m.Digest), store.HistoryFile),
			Problem: fmt.Sprintf("no training can give it: %v ('refocus verify --repair' sets the run aside, to be made again)", err),
		}
	}
	return h, nil
}

// checkHistory returns an error if no training by the spec can have the history.
func (s Spec) checkHistory(h *store.History) error {
	switch {
	case h.Stage != s.Stage || h.Target != s.Target:
		return fmt.Errorf("it is of a %s run for %s, not a %s run for %s", h.Stage, h.Target, s.Stage, s.Target)
	case len(h.Epochs) != s.Epochs:
		return fmt.Errorf("it has %d epochs, not %d", len(h.Epochs), s.Epochs)
	}
	best := 0
	for i, e := range h.Epochs {
		if err := s.checkEpoch(i, e); err != nil {
			return fmt.Errorf("epoch %d: %w", i+1, err)
		}
		if e.Validation[s.Target].Loss < h.Epochs[best].Validation[s.Target].Loss {
			best = i
		}
	}
	if h.Best != best+1 {
		return fmt.Errorf("its best epoch is %d, the lowest loss on %s is that of epoch %d", h.Best, s.Target, best+1)
	}
	return nil
}

func (s Spec) checkEpoch(i int, e store.Epoch) error {
	check := func(loss float64) error {
		return backend.CheckLoss(loss, s.Loss, s.Network.Classes, s.Backend.Precision)
	}
	if e.LearningRate != s.rate(i) {
		return fmt.Errorf("its learning rate is %v, not %v", e.LearningRate, s.rate(i))
	}
	if e.Skipped == 0 { // a skipped step may have any loss
		if err := check(e.TrainLoss); err != nil {
			return fmt.Errorf("its training loss is %w", err)
		}
	}
	for name, v := range e.Validation {
		if !slices.ContainsFunc(s.Validation, func(d Set) bool { return d.Name == name }) {
			return fmt.Errorf("it was validated on %q", name)
		}
		if err := check(v.Loss); err != nil {
			return fmt.Errorf("its validation loss on %s is %w", name, err)
		}
		if !(v.Dice >= 0 && v.Dice <= 1) {
			return fmt.Errorf("its Dice coefficient on %s is %v", name, v.Dice)
		}
	}
	if len(e.Validation) != len(s.Validation) {
		return fmt.Errorf("it was validated on %d of %d domains", len(e.Validation), len(s.Validation))
	}
	return nil
}
