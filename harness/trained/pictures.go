package trained

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"io/fs"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/sheet"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

// Predictions draws, as PNG, validation images of every domain of a study with
// their labels and with what the domain's best model makes of them; overall
// stands in where none was trained for the domain. Domains whose images are not
// in the store, or whose best model's weights are not, are left out.
func Predictions(ctx context.Context, b backend.Backend, r *reproduce.Resolved, overall *Model) ([]byte, error) {
	const tiles = 12
	per := max(1, min(2, tiles/len(r.Plan.Domains)))
	byTarget := map[string][]*reproduce.Node{}
	for _, n := range r.Nodes {
		byTarget[n.Spec.Target] = append(byTarget[n.Spec.Target], n)
	}
	var all []sheet.Tile
	pixel := 0.0
	for i := range r.Plan.Domains {
		d := &r.Plan.Domains[i]
		m, err := Best(r.Store, byTarget[d.Key], "")
		var dropped *store.DroppedError
		if errors.As(err, &dropped) {
			continue
		} else if err != nil {
			return nil, err
		}
		if m == nil {
			m = overall
		}
		ready, err := dataset.Find(r.Store.Root(), m.validation(d.Key).Digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		pixel = ready.PixelSize
		ts, err := m.Tiles(ctx, b, ready, per)
		if err != nil {
			return nil, err
		}
		for k := range ts {
			ts[k].Caption = d.Name
		}
		all = append(all, ts...)
	}
	im, err := sheet.Draw(all, sheet.Options{PixelSize: pixel, Side: 256, Columns: 4})
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	err = png.Encode(&buf, im)
	return buf.Bytes(), err
}

// Tiles are the first n images of a set that show particles and ground, with
// labels and the model's predictions; others fill up where there are too few.
func (m *Model) Tiles(ctx context.Context, b backend.Backend, ready dataset.Ready, n int) ([]sheet.Tile, error) {
	images, err := ready.Open()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	s, err := m.session(ctx, b, m.Graph)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	size := ready.Height * ready.Width
	var chosen, others []int
	label := make([]uint8, size)
	for i := range ready.Count {
		if err := images.Label(i, label); err != nil {
			return nil, err
		}
		particle := 0
		for _, l := range label {
			if l > 0 {
				particle++
			}
		}
		if particle > size/20 && particle < size-size/20 {
			chosen = append(chosen, i)
		} else {
			others = append(others, i)
		}
	}
	chosen = append(chosen, others...)
	var tiles []sheet.Tile
	for _, i := range chosen[:min(n, len(chosen))] {
		t, err := m.tile(ctx, s, images, i)
		if err != nil {
			return nil, err
		}
		tiles = append(tiles, t)
	}
	return tiles, nil
}

// Tile is one image of a set with its label and what the model predicts.
func (m *Model) Tile(ctx context.Context, b backend.Backend, images *dataset.Images, i int) (sheet.Tile, error) {
	s, err := m.session(ctx, b, m.Graph)
	if err != nil {
		return sheet.Tile{}, err
	}
	defer s.Close()
	return m.tile(ctx, s, images, i)
}

func (m *Model) tile(ctx context.Context, s backend.Session, images *dataset.Images, i int) (sheet.Tile, error) {
	size := images.Height * images.Width
	t := sheet.Tile{H: images.Height, W: images.Width, Pixels: make([]float32, size), Label: make([]uint8, size), Prediction: make([]uint8, size)}
	if err := images.Image(i, t.Pixels); err != nil {
		return t, err
	}
	if err := images.Label(i, t.Label); err != nil {
		return t, err
	}
	p, err := s.Predict(ctx, backend.Tensor{Shape: []int{1, 1, t.H, t.W}, F32: t.Pixels})
	if err != nil {
		return t, err
	}
	v := p.Float64s()
	for k := range t.Prediction {
		for c := 1; c < m.Spec.Network.Classes; c++ {
			if v[c*size+k] > v[int(t.Prediction[k])*size+k] {
				t.Prediction[k] = uint8(c)
			}
		}
	}
	return t, nil
}
