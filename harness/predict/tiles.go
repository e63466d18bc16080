package predict

import (
	"context"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/nn"
)

// DefaultTile is the side of a tile in pixels, overlap included. Larger tiles
// repeat less work and need more memory.
const DefaultTile = 1024

// Image is a grey image of H rows and W columns.
type Image struct {
	H, W   int
	Pixels []float32
}

// Segmentation is what the network says about an image.
type Segmentation struct {
	H, W int
	// Probability of the pixel being a particle: of any class but the
	// background.
	Probability []float32
	Class       []uint8 // the most probable class
}

// Segment predicts a standardised image in tiles of the given side (0:
// DefaultTile). progress is told how many tiles are done,
// before the first as well.
func (m *Segmenter) Segment(ctx context.Context, im Image, run Run, tile int, progress func(done, total int)) (*Segmentation, error) {
	if im.H < 1 || im.W < 1 || len(im.Pixels) != im.H*im.W {
		return nil, fmt.Errorf("%d pixels for an image of %d×%d", len(im.Pixels), im.H, im.W)
	}
	h, w := roundUp(im.H, m.period), roundUp(im.W, m.period)
	if in := m.Graph.Input.Shape; in[2] > 0 && in[2] != h || in[3] > 0 && in[3] != w {
		return nil, fmt.Errorf("the network takes images of %d×%d pixels only (0: any), this one has %d×%d", in[2], in[3], im.H, im.W)
	}
	rows, columns, err := m.plan(h, w, tile)
	if err != nil {
		return nil, err
	}
	s := &Segmentation{H: im.H, W: im.W, Probability: make([]float32, im.H*im.W), Class: make([]uint8, im.H*im.W)}
	if progress == nil {
		progress = func(done, total int) {}
	}
	k, done, total := len(m.Classes), 0, len(rows)*len(columns)
	progress(done, total)
	var buf []float32
	for _, r := range rows {
		for _, c := range columns {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			th, tw := r.end-r.begin, c.end-c.begin
			if cap(buf) < th*tw {
				buf = make([]float32, th*tw)
			}
			buf = buf[:th*tw]
			for y := range th {
				from := im.Pixels[pixels.Mirror(r.begin+y, im.H)*im.W:]
				for x := range tw {
					buf[y*tw+x] = from[pixels.Mirror(c.begin+x, im.W)]
				}
			}
			p, err := run(ctx, th, tw, buf)
			if err != nil {
				return nil, err
			}
			if len(p) != k*th*tw {
				return nil, fmt.Errorf("the backend returned %d values for %d classes of %d×%d pixels", len(p), k, th, tw)
			}
			for y := r.from; y < min(r.to, im.H); y++ {
				for x := c.from; x < min(c.to, im.W); x++ {
					at := (y-r.begin)*tw + x - c.begin
					// the sum of the others is exact where the background is
					// almost certain; 1−p is not
					var q float32
					for j := 1; j < k; j++ {
						q += p[j*th*tw+at]
					}
					s.Probability[y*im.W+x], s.Class[y*im.W+x] = q, uint8(nn.MostProbable(p, th*tw, at))
				}
			}
			done++
			progress(done, total)
		}
	}
	return s, nil
}

// span is a tile along one axis: it covers [begin,end) and answers for
// [from,to).
type span struct{ begin, end, from, to int }

// plan divides a padded image into tiles.
func (m *Segmenter) plan(h, w, tile int) (rows, columns []span, err error) {
	if tile == 0 {
		tile = DefaultTile
	}
	if m.margin < 0 {
		if h > tile || w > tile {
			return nil, nil, fmt.Errorf("an image of %d×%d pixels needs tiles of %d, and the network cannot be run in tiles: %s", h, w, tile, m.why)
		}
		return []span{{0, h, 0, h}}, []span{{0, w, 0, w}}, nil
	}
	if tile < 1 {
		return nil, nil, errors.New("tiles need a positive size")
	}
	if tile -= tile % m.period; (h > tile || w > tile) && tile < 2*m.margin+m.period {
		return nil, nil, fmt.Errorf("tiles of %d pixels are too small: they overlap by %d on every side, so they need at least %d", tile, m.margin, 2*m.margin+m.period)
	}
	return spans(h, tile, m.margin), spans(w, tile, m.margin), nil
}

// spans divides n pixels into tiles that overlap by the margin on either side.
// A tile at a border needs no margin there: the image's border is the network's.
func spans(n, tile, margin int) []span {
	var out []span
	for at := 0; at < n; {
		s := span{begin: max(0, at-margin), from: at}
		s.end = min(n, s.begin+tile)
		s.to = s.end - margin
		if s.end == n {
			s.to = n
		}
		out = append(out, s)
		at = s.to
	}
	return out
}
