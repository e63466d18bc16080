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

// DefaultThreshold is the probability above which a pixel is one of a particle.
const DefaultThreshold = 0.5

// DefaultMinDiameter in nm is what smaller regions are left out by, where a model
// says the pixel size it was trained on.
const DefaultMinDiameter = 0.7

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

// grid says which images a network takes, and where the pixels of its answer
// lie: an answer of n pixels belongs to an image of n+less, begins at less/2, and
// n is a multiple of period plus rest. Shifting an image by period shifts the
// answer.
type grid struct {
	period, rest int
	less         int
	h, w         int // the only size of images, 0: any
}

// newGrid tries sizes.
func newGrid(g *nn.Graph) (grid, error) {
	in := g.Input.Shape
	if in[2] > 0 && in[3] > 0 {
		s, err := g.Shapes([]int{max(1, in[0]), in[1], in[2], in[3]})
		if err != nil {
			return grid{}, err
		}
		y := s[g.Output.Name]
		r := grid{period: 1, h: in[2], w: in[3], less: in[2] - y[2]}
		if r.less != in[3]-y[3] || r.less < 0 {
			return grid{}, fmt.Errorf("the network turns images of %d×%d pixels into %d×%d; one that keeps the size, or loses as much on every side, is needed", in[2], in[3], y[2], y[3])
		}
		if f, err := g.Field(); err == nil {
			r.period = f.Period
		}
		return r, nil
	}
	if in[2] > 0 || in[3] > 0 {
		return grid{}, fmt.Errorf("the network takes images of %d×%d pixels (0: any); both sizes fixed, or none, are supported", in[2], in[3])
	}
	least := 1
	if f, err := g.Field(); err == nil {
		least = nn.LCM(f.Period, max(1, g.Multiple))
	}
	var failed error
	for p := least; p <= 1024; p *= 2 {
		for rest := range p { // of the image
			less, err := lost(g, p, rest)
			if err == nil {
				return grid{period: p, rest: ((rest-less)%p + p) % p, less: less}, nil
			}
			if failed == nil || rest == 0 {
				failed = err
			}
			if p > 64 { // no more than the multiples
				break
			}
		}
	}
	return grid{}, fmt.Errorf("found no image sizes that the network takes: %w", failed)
}

// lost is how many pixels an answer has less than its image, for sizes that are
// multiples of p plus rest.
func lost(g *nn.Graph, p, rest int) (int, error) {
	less := -1
	first := max(8, 256/p)
	for i := first; i < first+8; i++ {
		h, w := i*p+rest, (i+1)*p+rest
		s, err := g.Shapes([]int{max(1, g.Input.Shape[0]), g.Input.Shape[1], h, w})
		if err != nil {
			return 0, err
		}
		y := s[g.Output.Name]
		if less < 0 {
			less = h - y[2]
		}
		if less < 0 || h-y[2] != less || w-y[3] != less {
			return 0, fmt.Errorf("an image of %d×%d pixels gives an output of %d×%d", h, w, y[2], y[3])
		}
	}
	return less, nil
}

// Part is the part of an image that a tile answers for.
type Part struct {
	Done, Total int   // tiles; of 0 the part is empty
	Image       Image // as a whole, as the network sees it
	// Rows from Top up to Bottom and columns from Left up to Right.
	Top, Bottom, Left, Right int
	// Probability of the whole image, of which this part and those before are there. It
	// is still written to.
	Probability []float32
}

// Segment predicts a prepared image in tiles of the given side (0: DefaultTile);
// if the network takes one size only, that is the tile. part is told of every tile when
// it is done, before the first of none; nil for nobody.
func (m *Segmenter) Segment(ctx context.Context, im Image, run Run, tile int, part func(Part)) (*Segmentation, error) {
	if im.H < 1 || im.W < 1 || len(im.Pixels) != im.H*im.W {
		return nil, fmt.Errorf("%d pixels for an image of %d×%d", len(im.Pixels), im.H, im.W)
	}
	rows, columns, err := m.plan(im.H, im.W, tile)
	if err != nil {
		return nil, err
	}
	s := &Segmentation{H: im.H, W: im.W, Probability: make([]float32, im.H*im.W), Class: make([]uint8, im.H*im.W)}
	if part == nil {
		part = func(Part) {}
	}
	p := Part{Total: len(rows) * len(columns), Image: im, Probability: s.Probability}
	part(p)
	var buf []float32
	for _, r := range rows {
		for _, c := range columns {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			th, tw := r.end-r.begin, c.end-c.begin
			shape := []int{max(1, m.Graph.Input.Shape[0]), m.channels(), th + m.grid.less, tw + m.grid.less}
			buf = m.input(buf, im, r.begin, c.begin, shape)
			out, err := run(ctx, shape, buf)
			if err != nil {
				return nil, err
			}
			k := m.Graph.Output.Shape[1]
			if len(out) != shape[0]*k*th*tw {
				return nil, fmt.Errorf("the backend returned %d values for %d channels of %d×%d pixels", len(out), k, th, tw)
			}
			out = m.head.probabilities(out[:k*th*tw], k)
			for y := r.from; y < min(r.to, im.H); y++ {
				for x := c.from; x < min(c.to, im.W); x++ {
					at := (y-r.begin)*tw + x - c.begin
					// the sum of the others is exact where the background is
					// almost certain; 1−p is not
					var q float32
					for j := 1; j < len(m.Classes); j++ {
						if v := out[j*th*tw+at]; m.head.exclusive {
							q += v
						} else {
							q = max(q, v)
						}
					}
					s.Probability[y*im.W+x], s.Class[y*im.W+x] = q, uint8(nn.MostProbable(out, th*tw, at))
				}
			}
			p.Done++
			p.Top, p.Bottom, p.Left, p.Right = r.from, min(r.to, im.H), c.from, min(c.to, im.W)
			part(p)
		}
	}
	return s, nil
}

// input fills the network's input with the image from row y and column x of its
// answer on, reflected at the borders.
func (m *Segmenter) input(buf []float32, im Image, y, x int, shape []int) []float32 {
	h, w := shape[2], shape[3]
	n := shape[0] * shape[1] * h * w
	if cap(buf) < n {
		buf = make([]float32, n)
	}
	buf = buf[:n]
	y, x = y-m.grid.less/2, x-m.grid.less/2
	for i := range h {
		from := im.Pixels[mirror(y+i, im.H)*im.W:]
		for j := range w {
			buf[i*w+j] = from[mirror(x+j, im.W)]
		}
	}
	for i := h * w; i < n; i += h * w {
		copy(buf[i:], buf[:h*w])
	}
	for i := 0; i < n && m.Preparation.channels != nil; i += h * w {
		c := m.Preparation.channels[i/(h*w)%shape[1]]
		for j, v := range buf[i:][:h*w] {
			buf[i+j] = float32((float64(v) - c.mean) / c.std)
		}
	}
	return buf
}

// mirror is pixels.Mirror for coordinates before the image as well.
func mirror(i, n int) int { return pixels.Mirror(max(i, -i), n) }

// span is a tile along one axis of the answer: it covers [begin,end) and answers
// for [from,to).
type span struct{ begin, end, from, to int }

// plan divides an image, padded to a size that the network answers with, into
// tiles.
func (m *Segmenter) plan(h, w, tile int) (rows, columns []span, err error) {
	if m.grid.h > 0 {
		return equalSpans(h, m.grid.h-m.grid.less, m.grid.period, m.overlap(m.grid.h)), equalSpans(w, m.grid.w-m.grid.less, m.grid.period, m.overlap(m.grid.w)), nil
	}
	if tile == 0 {
		tile = DefaultTile
	}
	if tile < 1 {
		return nil, nil, errors.New("tiles need a positive size")
	}
	period := m.grid.period
	h, w = roundUp(h-m.grid.rest, period)+m.grid.rest, roundUp(w-m.grid.rest, period)+m.grid.rest
	if m.margin < 0 {
		if h > tile || w > tile {
			return nil, nil, fmt.Errorf("an image of %d×%d pixels needs tiles of %d, and the network cannot be run in tiles: %s", h, w, tile, m.why)
		}
		return []span{{0, h, 0, h}}, []span{{0, w, 0, w}}, nil
	}
	asked := tile
	if tile -= (tile - m.grid.rest) % period; (h > tile || w > tile) && tile < 2*m.margin+period {
		return nil, nil, fmt.Errorf("tiles of %d×%d pixels are too small: they overlap by %d pixels on every side, so they need at least %d (--tile)", asked, asked, m.margin, 2*m.margin+period+m.grid.rest)
	}
	if m.grid.rest != 0 {
		return equalSpans(h, min(h, tile), period, m.margin), equalSpans(w, min(w, tile), period, m.margin), nil
	}
	return spans(h, tile, m.margin), spans(w, tile, m.margin), nil
}

// overlap is the margin of tiles whose size is given: the network's, or a quarter
// of the tile where that is not known or too much.
func (m *Segmenter) overlap(side int) int {
	period := m.grid.period
	if m.margin >= 0 && 2*m.margin+period <= side-m.grid.less {
		return m.margin
	}
	return (side - m.grid.less) / 4 / period * period
}

// equalSpans divides n pixels into tiles of one size that overlap by the margin
// on either side, and begin at multiples of period. The last may reach beyond
// the image.
func equalSpans(n, tile, period, margin int) []span {
	step := max(period, (tile-2*margin)/period*period)
	var out []span
	for at := 0; ; at += step {
		s := span{at, at + tile, at + margin, at + margin + step}
		if at == 0 {
			s.from = 0
		}
		if s.end >= n {
			s.to = n
			return append(out, s)
		}
		out = append(out, s)
	}
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
