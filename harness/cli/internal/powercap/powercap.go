// Package powercap limits the power of NVIDIA GPUs for the length of a training,
// as the noise and structure series of the study did (250 W), through NVIDIA's
// management library, and restores what it found. It never fails a run: what
// could not be done is told, with the reason, for the run's manifest.
//
// The library is reached by github.com/NVIDIA/go-nvml, which needs cgo, and is
// therefore part of the harness only with -tags cuda; a build without it says so.
package powercap

import (
	"fmt"
	"strings"
)

// gpu is one device whose limit can be read and set, in milliwatts.
type gpu interface {
	name() string
	limit() (uint32, error)
	bounds() (low, high uint32, err error)
	setLimit(mW uint32) error
}

// Apply limits every GPU to watts. The note says, for every GPU, whether that was
// done; restore brings the former limits back and returns what went wrong doing
// so.
func Apply(watts int) (note string, restore func() error) {
	gpus, done, err := open()
	if err != nil {
		return fmt.Sprintf("power cap of %d W not applied: %v", watts, err), func() error { return nil }
	}
	note, undo := apply(gpus, watts)
	return note, func() error {
		defer done()
		return undo()
	}
}

func apply(gpus []gpu, watts int) (note string, restore func() error) {
	type former struct {
		g  gpu
		mW uint32
	}
	var changed []former
	var notes []string
	for i, g := range gpus {
		before, err := g.limit()
		if err == nil {
			err = set(g, uint32(watts)*1000)
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("power cap of %d W not applied to GPU %d (%s): %v", watts, i, g.name(), err))
			continue
		}
		changed = append(changed, former{g, before})
		notes = append(notes, fmt.Sprintf("power cap of %d W applied to GPU %d (%s), before it %d W", watts, i, g.name(), before/1000))
	}
	if len(gpus) == 0 {
		notes = append(notes, fmt.Sprintf("power cap of %d W not applied: there is no NVIDIA GPU", watts))
	}
	return strings.Join(notes, "; "), func() error {
		var failed []string
		for _, f := range changed {
			if err := f.g.setLimit(f.mW); err != nil {
				failed = append(failed, fmt.Sprintf("restoring %d W on %s: %v", f.mW/1000, f.g.name(), err))
			}
		}
		if failed != nil {
			return fmt.Errorf("%s", strings.Join(failed, "; "))
		}
		return nil
	}
}

func set(g gpu, mW uint32) error {
	low, high, err := g.bounds()
	if err != nil {
		return err
	}
	if mW < low || mW > high {
		return fmt.Errorf("it allows %d to %d W", low/1000, high/1000)
	}
	return g.setLimit(mW)
}
