package kernel

// Piece is how many pixels of a plane are added up in float32: in lanes, pixel q in
// lane q mod 32, which are then folded, 16 upon 16, 8 upon 8 and so on. A plane's last
// piece is shorter.
const Piece = 1024

const wide = 32 // lanes of a sum

// Total adds the sums of pieces, in the order of Add, in float64: piece i in lane
// i mod 32, lanes folded as in a piece.
type Total struct {
	lanes [wide]float64
	n     int
}

// Add adds a piece's sum.
func (t *Total) Add(v float32) {
	t.lanes[t.n%wide] += float64(v)
	t.n++
}

// Value is the sum.
func (t *Total) Value() float64 { return fold(t.lanes) }

// Fold64 adds up 32 lanes as those of sums are.
func Fold64(s [32]float64) float64 { return fold(s) }

func fold[T float32 | float64](s [wide]T) T {
	for half := wide / 2; half > 0; half /= 2 {
		for i := range half {
			s[i] += s[half+i]
		}
	}
	return s[0]
}

// Pieces calls f with the bounds of each piece of n pixels.
func Pieces(n int, f func(lo, hi int)) {
	for lo := 0; lo < n; lo += Piece {
		f(lo, min(lo+Piece, n))
	}
}

// Sum is the sum of a piece.
func Sum(x []float32) float32 {
	var s [wide]float32
	n := 0
	if assembly && len(x) >= wide {
		n = len(x) / wide * wide
		sumLanes(&s, &x[0], n/wide)
	}
	for i, v := range x[n:] {
		s[i%wide] += v
	}
	return fold(s)
}

// SumSquares is Σ (x−m)² of a piece, each square added by a fused multiply-add.
func SumSquares(x []float32, m float32) float32 {
	var s [wide]float32
	n := 0
	if assembly && len(x) >= wide {
		n = len(x) / wide * wide
		squareLanes(&s, &x[0], n/wide, m)
	}
	for i, v := range x[n:] {
		d := v - m
		s[i%wide] = fma(d, d, s[i%wide])
	}
	return fold(s)
}

// SumProducts is Σ dy·(x−m), by fused multiply-adds, and Σ dy of a piece, with dy
// taken as 0 where y is not positive if relued is set.
func SumProducts(x, y, dy []float32, m float32, relued bool) (dot, total float32) {
	y, dy = y[:len(x)], dy[:len(x)]
	var s [2][wide]float32
	n := 0
	if assembly && len(x) >= wide {
		n = len(x) / wide * wide
		productLanes(&s, &x[0], &y[0], &dy[0], n/wide, m, flag(relued))
	}
	for i, v := range x[n:] {
		d := dy[n+i]
		if relued && !(y[n+i] > 0) {
			d = 0
		}
		s[0][i%wide] = fma(d, v-m, s[0][i%wide])
		s[1][i%wide] += d
	}
	return fold(s[0]), fold(s[1])
}

// Affine is y = k·x + t, product and sum rounded each, then its positive part if
// relued is set; NaN stays NaN.
func Affine(y, x []float32, k, t float32, relued bool) {
	y = y[:len(x)]
	n := 0
	if assembly && len(x) >= lanes {
		n = len(x) / lanes * lanes
		affineLanes(&y[0], &x[0], n/lanes, k, t, flag(relued))
	}
	for i, v := range x[n:] {
		v = float32(k*v) + t
		if relued {
			v = max(v, 0)
		}
		y[n+i] = v
	}
}

// Combine is dx = k·dy + p·x + q, every operation rounded, with dy taken as 0 where y
// is not positive if relued is set.
func Combine(dx, x, y, dy []float32, k, p, q float32, relued bool) {
	dx, y, dy = dx[:len(x)], y[:len(x)], dy[:len(x)]
	n := 0
	if assembly && len(x) >= lanes {
		n = len(x) / lanes * lanes
		combineLanes(&dx[0], &x[0], &y[0], &dy[0], n/lanes, k, p, q, flag(relued))
	}
	for i, v := range x[n:] {
		d := dy[n+i]
		if relued && !(y[n+i] > 0) {
			d = 0
		}
		dx[n+i] = float32(k*d) + float32(p*v) + q
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
