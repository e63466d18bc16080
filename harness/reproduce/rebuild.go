package reproduce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// Rebuild trains a finished run again whose weights were dropped, and puts them back in
// the store if its history and they are those that its manifest lists. It reports
// whether they were not there. Interrupted, another call goes on from what was kept. A
// *store.BusyError says that another process is at it.
func (r *Retrainer) Rebuild(ctx context.Context, digest string) (bool, error) {
	m, err := r.st.Manifest(digest)
	if err != nil {
		return false, err
	}
	spec, err := specOf(m)
	if err != nil {
		return false, err
	}
	claim, err := r.st.ClaimDropped(digest)
	if errors.Is(err, store.ErrDone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer claim.Release()
	claim.Update(func(a *store.Attempt) {
		a.ID, a.Study, a.Harness, a.Parent, a.Total = m.ID, m.Study, m.Harness, spec.Parent, spec.Work()
		a.Backend, a.Threads = spec.Backend.Name, r.o.Threads
	})
	ctx, cancel := whileHeld(ctx, claim)
	defer cancel()
	res, err := r.retrain(ctx, digest, 0, rebuilding{claim}, nil)
	if err != nil {
		if ctx.Err() == nil {
			claim.Fail(err)
		}
		return false, err
	}
	for _, f := range res.Files() {
		for _, was := range m.Files {
			if was.Name == f.Name && was != f {
				err := fmt.Errorf("run %s (%.12s) was trained again and came to another %s: its SHA-256 is %s, the manifest says %s (backend %s claims the same result %s)",
					m.ID, digest, f.Name, f.SHA256, was.SHA256, m.Backend.Name, claimed(m.Backend.Determinism))
				claim.Fail(err)
				return false, err
			}
		}
	}
	return true, claim.Restore(res.Weights)
}

// Work is the work of a finished run in training image-steps.
func Work(m *store.Manifest) (float64, error) {
	s, err := specOf(m)
	return s.Work(), err
}

func specOf(m *store.Manifest) (s train.Spec, err error) {
	if err := json.Unmarshal(m.Spec, &s); err != nil {
		return s, fmt.Errorf("run %s (%.12s): reading its spec: %w", m.ID, m.Digest, err)
	}
	return s, nil
}

// rebuilding is a claim that keeps a run's checkpoints while it is rebuilt.
type rebuilding struct{ *store.Claim }

func (k rebuilding) Damaged(error) error {
	_, err := k.SetAside()
	return err
}
