package train

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
)

// losses of single validation images, by domain, epoch and image.
type losses map[string][][]float64

// encode writes them as safetensors, by domain F64 [epochs, images]; nil for nil, which
// is not the same as none yet.
func (l losses) encode() ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	var ts []safetensors.Tensor
	for _, domain := range slices.Sorted(maps.Keys(l)) {
		epochs := l[domain]
		ts = append(ts, safetensors.Tensor{Name: domain, Shape: []int{len(epochs), len(epochs[0])}, Data: slices.Concat(epochs...)})
	}
	return safetensors.Encode(ts, nil)
}

func decodeLosses(b []byte) (losses, error) {
	f, err := safetensors.Decode(b)
	if err != nil {
		return nil, err
	}
	l := losses{}
	for _, i := range f.Tensors() {
		domain := i.Name
		if len(i.Shape) != 2 || i.Shape[1] == 0 {
			return nil, fmt.Errorf("%s has shape %v, not epochs by images", domain, i.Shape)
		}
		v, err := f.Float64(domain)
		if err != nil {
			return nil, err
		}
		l[domain] = slices.Collect(slices.Chunk(v, i.Shape[1]))
	}
	return l, nil
}

// ReadLosses reads the losses of every validation image of the finished run that the
// spec describes, by domain, epoch and image: those whose means are in its history h.
// Nil for a run that has none stored. Ones that the history does not have are a
// *files.Damage.
func (s Spec) ReadLosses(st *store.Store, digest string, h *store.History) (map[string][][]float64, error) {
	b, err := st.Losses(digest)
	if b == nil || err != nil {
		return nil, err
	}
	l, err := decodeLosses(b)
	if err == nil {
		err = s.checkLosses(l, h)
	}
	if err != nil {
		return nil, &files.Damage{
			Path:    filepath.Join(st.RunDir(digest), store.LossesFile),
			Problem: fmt.Sprintf("%v ('refocus verify --repair' sets the run aside, to be made again)", err),
		}
	}
	return l, nil
}

func (s Spec) checkLosses(l losses, h *store.History) error {
	if len(l) != len(s.Validation) {
		return fmt.Errorf("it is of %d domains, not %d", len(l), len(s.Validation))
	}
	for _, d := range s.Validation {
		epochs, ok := l[d.Name]
		switch {
		case !ok:
			return fmt.Errorf("it has no %s", d.Name)
		case len(epochs) != len(h.Epochs) || len(epochs[0]) != d.Images:
			return fmt.Errorf("of %s it has %d epochs of %d images, not %d of %d", d.Name, len(epochs), len(epochs[0]), len(h.Epochs), d.Images)
		}
		for k, images := range epochs {
			// The same sum as that which the history has, to the bit.
			if mean := (backend.Evaluation{Loss: images}).MeanLoss(); mean != h.Epochs[k].Validation[d.Name].Loss {
				return fmt.Errorf("the mean loss on %s after epoch %d is %v, that of the history %v", d.Name, k+1, mean, h.Epochs[k].Validation[d.Name].Loss)
			}
		}
	}
	return nil
}
