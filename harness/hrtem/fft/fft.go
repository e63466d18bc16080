// Package fft transforms square fields of complex64 numbers, for sides that are
// multiples of 16 without other prime factors than 2, 3 and 5 (128, 256, 640,
// 1280, …).
//
// A Plan is made once for a side and is safe for concurrent use. Its main
// operation is Filter, which multiplies the spectrum of one or more fields by
// tabulated functions of the spatial frequency and transforms back: a multislice
// step, the potential of a slice and an image formation are one Filter each.
//
// # Layout
//
// Fields are planar (real and imaginary parts apart) and blocked: Lanes
// rows are interleaved, so that one-dimensional transforms run over Lanes rows
// at once and every step is arithmetic on contiguous vectors. Element (y, x) of a
// field of side n is number
//
//	Index(n, y, x) = ((y / Lanes)·n + x)·Lanes + y mod Lanes
//
// and element (ky, kx) of a spectrum is number Index(n, kx, ky): the roles of the
// axes are exchanged. Frequencies run 0, 1, …, n/2−1, −n/2, …, −1. Between rows and
// columns 16×16 tiles are transposed. The one-dimensional transform is the
// self-sorting algorithm of Stockham with radices 4, 2, 3 and 5.
//
// # Accuracy
//
// Products and sums are rounded to float32 one by one, in an order that depends
// on the side alone, so results have the same bits on every machine. The relative
// error (root mean square) of a forward and an inverse transform is about 2·10⁻⁷.
package fft

import (
	"fmt"
	"math"
	"sync"

	"github.com/refocus-em/refocus/harness/hrtem/internal/kernel"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
)

// Lanes is the number of rows that are transformed together.
const Lanes = kernel.Lanes

// Supported reports whether fields of side n can be transformed.
func Supported(n int) bool {
	return n >= Lanes && n%Lanes == 0 && radices(n) != nil
}

// Index returns the position of element (y, x) in a field of side n, or that of
// element (kx, ky) in a spectrum.
func Index(n, y, x int) int {
	return (y/Lanes*n+x)*Lanes + y%Lanes
}

// Field is a square field or spectrum in the package's layout.
type Field kernel.Planes

// NewField returns a field of zeros of side n.
func NewField(n int) Field { return staggered(n*n, 0) }

// staggered allocates n complex zeros. A stage reads and writes up to five runs of
// each plane, often a multiple of 4 KiB apart, where they would compete for the
// same few places of a first-level cache. So that planes do not compete with each
// other, too, a plane starts offset·512 bytes and its twin another 2 KiB behind a
// multiple of 4 KiB (large allocations start at one).
func staggered(n, offset int) Field {
	const page, kib2 = 1024, 512 // in float32
	im := (n+page-1)/page*page + kib2
	b := make([]float32, offset*128+im+n)[offset*128:]
	return Field{b[:n:n], b[im:]}
}

// FromRows sets the field from complex numbers row by row.
func (f Field) FromRows(n int, rows []complex64) {
	for y := range n {
		i := Index(n, y, 0)
		for _, v := range rows[y*n : y*n+n] {
			f.Re[i], f.Im[i] = real(v), imag(v)
			i += Lanes
		}
	}
}

// Rows writes the field to rows, row by row.
func (f Field) Rows(n int, rows []complex64) {
	for y := range n {
		i := Index(n, y, 0)
		for x := range n {
			rows[y*n+x] = complex(f.Re[i], f.Im[i])
			i += Lanes
		}
	}
}

// Frequency returns the frequency of index i: i itself, or i−n from n/2 on.
func Frequency(n, i int) int {
	if i >= n/2 {
		return i - n
	}
	return i
}

// Plan holds the factors and twiddles of one side.
type Plan struct {
	n      int
	stages []stage
	pool   sync.Pool // *scratch
}

// scratch is what one call works in: a field between rows and columns, a sum
// over terms, and blocks of Lanes rows.
type scratch struct {
	mid, sum Field
	a, b     Field // the stages alternate between them
	line     Field // a transformed block
}

// stage is one step of Stockham's algorithm: m butterflies of a radix over runs of
// stride elements.
type stage struct {
	radix, m, stride int
	// twiddle holds, for butterfly p, the radix−1 factors exp(−2πi·p·j/(m·radix)),
	// j = 1…radix−1, real and imaginary part.
	twiddle []float32
}

func (s *stage) run(dst, src Field) {
	kernel.Best.Stages[s.radix](kernel.Planes(dst), kernel.Planes(src), s.m, s.stride*Lanes, s.twiddle)
}

// NewPlan plans transforms of side n.
func NewPlan(n int) (*Plan, error) {
	if !Supported(n) {
		return nil, fmt.Errorf("fft: side %d is not a multiple of %d with the prime factors 2, 3 and 5 only", n, Lanes)
	}
	p := &Plan{n: n}
	length, stride := n, 1
	for _, r := range radices(n) {
		s := stage{radix: r, m: length / r, stride: stride}
		for q := range s.m {
			for j := 1; j < r; j++ {
				re, im := root(q*j, length)
				s.twiddle = append(s.twiddle, re, im)
			}
		}
		p.stages = append(p.stages, s)
		length /= r
		stride *= r
	}
	p.pool.New = func() any {
		block := n * Lanes
		return &scratch{mid: NewField(n), a: staggered(block, 1), b: staggered(block, 2), line: staggered(block, 3)}
	}
	return p, nil
}

// block returns block number i of a field: Lanes rows, or Lanes columns of a
// spectrum.
func (p *Plan) block(f Field, i int) Field {
	lo, hi := i*p.n*Lanes, (i+1)*p.n*Lanes
	return Field{f.Re[lo:hi:hi], f.Im[lo:hi:hi]}
}

// N returns the side of the fields.
func (p *Plan) N() int { return p.n }

// Forward sets the spectrum dst to Σ src·exp(−2πi(kx·x + ky·y)/n). dst may be src.
func (p *Plan) Forward(dst, src Field) {
	s := p.pool.Get().(*scratch)
	defer p.pool.Put(s)
	p.rows(s.mid, src, p.n, s)
	for i := range p.n / Lanes {
		p.lines(p.block(dst, i), p.block(s.mid, i), s)
	}
}

// Inverse sets dst to Σ src·exp(+2πi(kx·x + ky·y)/n), where src is a spectrum. It
// does not divide by n². dst may be src.
func (p *Plan) Inverse(dst, src Field) {
	s := p.pool.Get().(*scratch)
	defer p.pool.Put(s)
	for i := range p.n / Lanes {
		p.inverseLines(p.block(s.mid, i), p.block(src, i), s)
	}
	p.inverseRows(dst, s.mid, p.n, s)
}

// Term is a summand of Filter: the spectrum of Src times a function of the
// frequency, laid out like a spectrum. Im is nil for a real function.
type Term struct {
	Src    Field
	Re, Im []float32
}

// Filter sets dst to the inverse transform of the sum over terms of the function
// times the spectrum of the source. All functions must be zero where |kx| > band.
// The inverse is not divided by n²; let the functions contain that factor.
// dst may be one of the sources.
func (p *Plan) Filter(dst Field, band int, terms ...Term) {
	s := p.pool.Get().(*scratch)
	defer p.pool.Put(s)
	acc := s.mid
	if len(terms) > 1 {
		if s.sum.Re == nil {
			s.sum = NewField(p.n)
		}
		acc = s.sum
	}
	for t, term := range terms {
		p.rows(s.mid, term.Src, band, s)
		for i := range p.n / Lanes {
			if !p.inBand(i, band) {
				continue
			}
			p.lines(s.line, p.block(s.mid, i), s)
			out := p.block(acc, i)
			p.apply(out, s.line, term, i, t > 0)
			if t == len(terms)-1 {
				p.inverseLines(p.block(s.mid, i), out, s)
			}
		}
	}
	p.inverseRows(dst, s.mid, band, s)
}

// inBand reports whether block i of a spectrum has a column with |kx| ≤ band.
func (p *Plan) inBand(i, band int) bool {
	return i*Lanes <= band || p.n-(i+1)*Lanes+1 <= band
}

// rows transforms src along x into mid, whose blocks have Lanes values of kx for
// each y.
func (p *Plan) rows(mid, src Field, band int, s *scratch) {
	nb := p.n / Lanes
	for yb := range nb {
		p.lines(s.line, p.block(src, yb), s)
		for kb := range nb {
			if p.inBand(kb, band) {
				from, to := kb*Lanes*Lanes, (kb*p.n+yb*Lanes)*Lanes
				kernel.Best.Transpose(mid.Re[to:], s.line.Re[from:])
				kernel.Best.Transpose(mid.Im[to:], s.line.Im[from:])
			}
		}
	}
}

// inverseRows is the inverse of rows.
func (p *Plan) inverseRows(dst, mid Field, band int, s *scratch) {
	nb := p.n / Lanes
	for yb := range nb {
		for kb := range nb {
			to, from := kb*Lanes*Lanes, (kb*p.n+yb*Lanes)*Lanes
			if p.inBand(kb, band) {
				kernel.Best.Transpose(s.line.Re[to:], mid.Re[from:])
				kernel.Best.Transpose(s.line.Im[to:], mid.Im[from:])
			} else {
				clear(s.line.Re[to : to+Lanes*Lanes])
				clear(s.line.Im[to : to+Lanes*Lanes])
			}
		}
		p.inverseLines(p.block(dst, yb), s.line, s)
	}
}

// lines transforms the Lanes rows of block src into dst, which may be src but not
// s.a or s.b.
func (p *Plan) lines(dst, src Field, s *scratch) {
	in, other := s.a, s.b
	last := len(p.stages) - 1
	p.stages[0].run(in, src)
	for i := 1; i < last; i++ {
		p.stages[i].run(other, in)
		in, other = other, in
	}
	p.stages[last].run(dst, in)
}

// inverseLines is lines with the opposite sign of the exponent: exchanging the
// real and imaginary parts before and after does it.
func (p *Plan) inverseLines(dst, src Field, s *scratch) {
	p.lines(Field{dst.Im, dst.Re}, Field{src.Im, src.Re}, s)
}

// radices factors n, fours first; it returns nil if other primes than 2, 3 and 5
// divide n.
func radices(n int) []int {
	var rs []int
	for _, r := range []int{4, 2, 3, 5} {
		for n%r == 0 && n > 0 {
			rs = append(rs, r)
			n /= r
		}
	}
	if n != 1 {
		return nil
	}
	return rs
}

// root returns exp(−2πi·k/n).
func root(k, n int) (re, im float32) {
	s, c := portable.SinCos(2 * math.Pi * float64(k%n) / float64(n))
	return float32(c), float32(-s)
}

// apply multiplies block i of a spectrum by a term's function.
func (p *Plan) apply(dst, x Field, t Term, i int, add bool) {
	lo, hi := i*p.n*Lanes, (i+1)*p.n*Lanes
	h := kernel.Planes{Re: t.Re[lo:hi]}
	f := kernel.Best.Scale
	if add {
		f = kernel.Best.ScaleAdd
	}
	if t.Im != nil {
		h.Im = t.Im[lo:hi]
		f = kernel.Best.Multiply
		if add {
			f = kernel.Best.MultiplyAdd
		}
	}
	f(kernel.Planes(dst), kernel.Planes(x), h)
}
