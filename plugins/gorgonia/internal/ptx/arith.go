package ptx

import (
	"math"
	"math/big"
	"math/bits"
)

// rounding is a rounding that an instruction names.
type rounding string

const (
	nearest rounding = "rn" // ties to even
	zero    rounding = "rz"
	down    rounding = "rm"
	up      rounding = "rp"
)

// NaNs that an operation produces.
const (
	nan32 = 0x7fffffff
	nan64 = 0x7ff8_0000_0000_0000
)

func f32(x uint64) float32 { return math.Float32frombits(uint32(x)) }
func f64(x uint64) float64 { return math.Float64frombits(x) }

// bits32 are the bits of a result in single precision.
func bits32(x float32) uint64 {
	if x != x {
		return nan32
	}
	return uint64(math.Float32bits(x))
}

func bits64(x float64) uint64 {
	if x != x {
		return nan64
	}
	return math.Float64bits(x)
}

// fma32 is a·b+c, rounded once. The product is exact in float64. The sum is rounded to
// odd there: where it is inexact, to the neighbour whose last bit is set. Of 53 bits,
// that keeps what rounding to the 24 of float32, or fewer, depends on.
func fma32(a, b, c float32) float32 {
	p := float64(a) * float64(b)
	s := p + float64(c)
	bits := math.Float64bits(s)
	// Only a sum half-way between two numbers of float32, or one of the subnormals of
	// float32, can be rounded wrongly. Those are normal from 2⁻¹²⁶ on, exponent 897.
	if exponent := bits >> 52 & 0x7ff; bits&0x1fff_ffff != 0x1000_0000 && exponent >= 897 {
		return float32(s)
	}
	return fma32slow(p, float64(c), s)
}

func fma32slow(p, c, s float64) float32 {
	if s == 0 || math.IsInf(s, 0) || s != s {
		return float32(s)
	}
	// The error of the sum, exactly (Knuth).
	q := s - p
	e := (p - (s - q)) + (c - q)
	if bits := math.Float64bits(s); e != 0 && bits&1 == 0 {
		if (e > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
		s = math.Float64frombits(bits)
	}
	return float32(s)
}

// The operations that take a rounding.
type operation int

const (
	sum operation = iota
	product
	fused
	quotient
	root
)

// nearest64 is the operation on float64 and in it, rounded to nearest.
func (o operation) nearest64(a, b, c float64) float64 {
	switch o {
	case sum:
		return a + b
	case product:
		return a * b
	case fused:
		return math.FMA(a, b, c)
	case quotient:
		return a / b
	}
	return math.Sqrt(a)
}

func (o operation) nearest32(a, b, c float32) float32 {
	switch o {
	case sum:
		return a + b
	case product:
		return a * b
	case fused:
		return fma32(a, b, c)
	case quotient:
		return a / b
	}
	return float32(math.Sqrt(float64(a))) // 53 bits ≥ 2·24+2: rounding twice does no harm
}

// exact is enough bits for every sum of two float64, or of one and a product.
const exact = 4400

func wide(x float64) *big.Float { return new(big.Float).SetPrec(exact).SetFloat64(x) }

// miss is the sign of the exact result minus r, which is finite or, of a result too large,
// infinite. The operands are finite.
func (o operation) miss(r, a, b, c float64) int {
	if math.IsInf(r, 0) {
		return -sign(r)
	}
	x, y := wide(a), wide(b)
	switch o {
	case sum:
		return x.Add(x, y).Cmp(wide(r))
	case product:
		return x.Mul(x, y).Cmp(wide(r))
	case fused:
		return x.Mul(x, y).Add(x, wide(c)).Cmp(wide(r))
	case quotient: // a/b − r has the sign of (a − r·b)/b
		return x.Sub(x, y.Mul(y, wide(r))).Sign() * sign(b)
	}
	q := wide(r) // √a − r has that of a − r²
	return x.Sub(x, q.Mul(q, q)).Sign()
}

func sign(x float64) int {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// step says whether a result to nearest, which misses the exact one by a number of sign
// miss, has to move: +1 up, −1 down.
func (mode rounding) step(r float64, miss int) int {
	switch {
	case mode == up && miss > 0, mode == zero && miss > 0 && r < 0:
		return 1
	case mode == down && miss < 0, mode == zero && miss < 0 && r > 0:
		return -1
	}
	return 0
}

// finite reports operands for which a result can be inexact.
func finite(x ...float64) bool {
	for _, v := range x {
		if math.IsInf(v, 0) || v != v {
			return false
		}
	}
	return true
}

// minusZero reports that an exact zero is −0 because sums are rounded down: of two
// zeros of different signs, and of what cancels.
func (o operation) minusZero(mode rounding, r, a, b, c float64) bool {
	if mode != down || r != 0 || math.Signbit(r) {
		return false
	}
	switch o {
	case sum:
		return !(a == 0 && b == 0 && !math.Signbit(a) && !math.Signbit(b))
	case fused:
		p := a * b
		return o.miss(0, a, b, c) == 0 && !((a == 0 || b == 0) && c == 0 && !math.Signbit(p) && !math.Signbit(c))
	}
	return false
}

// do32 is an operation in single precision.
func (o operation) do32(mode rounding, a, b, c float32) float32 {
	r := o.nearest32(a, b, c)
	x, y, z, q := float64(a), float64(b), float64(c), float64(r)
	if mode == nearest || r != r || !finite(x, y, z) || o == quotient && b == 0 {
		return r
	}
	if o.minusZero(mode, q, x, y, z) {
		return float32(math.Copysign(0, -1))
	}
	switch mode.step(q, o.miss(q, x, y, z)) {
	case 1:
		return math.Nextafter32(r, float32(math.Inf(1)))
	case -1:
		return math.Nextafter32(r, float32(math.Inf(-1)))
	}
	return r
}

// do64 is an operation in double precision.
func (o operation) do64(mode rounding, a, b, c float64) float64 {
	r := o.nearest64(a, b, c)
	if mode == nearest || r != r || !finite(a, b, c) || o == quotient && b == 0 {
		return r
	}
	if o.minusZero(mode, r, a, b, c) {
		return math.Copysign(0, -1)
	}
	switch mode.step(r, o.miss(r, a, b, c)) {
	case 1:
		return math.Nextafter(r, math.Inf(1))
	case -1:
		return math.Nextafter(r, math.Inf(-1))
	}
	return r
}

// flush makes a subnormal zero, of its sign.
func flush(x float32) float32 {
	if b := math.Float32bits(x); b&0x7f80_0000 == 0 {
		return math.Float32frombits(b & 0x8000_0000)
	}
	return x
}

// saturate32 brings a number into 0…1; of NaN it makes +0.
func saturate32(x float32) float32 {
	if !(x > 0) {
		return 0
	}
	return min(x, 1)
}

func saturate64(x float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, 1)
}

// smaller and larger are min and max: of a number and NaN the number, and −0 < +0.
func smaller(a, b float64) float64 {
	switch {
	case a != a:
		return b
	case b != b:
		return a
	}
	return min(a, b)
}

func larger(a, b float64) float64 {
	switch {
	case a != a:
		return b
	case b != b:
		return a
	}
	return max(a, b)
}

// round64 rounds to an integer.
func (mode rounding) round64(x float64) float64 {
	switch mode {
	case "rni":
		return math.RoundToEven(x)
	case "rzi":
		return math.Trunc(x)
	case "rmi":
		return math.Floor(x)
	}
	return math.Ceil(x) // rpi
}

// toInteger converts a float, rounded to an integer before, to t. What t cannot hold
// becomes its nearest; for NaN see the ISA's description of cvt.
func toInteger(x float64, t, from typ) uint64 {
	switch {
	case x != x:
		if from.bits != 64 && t.bits != 64 {
			return 0
		}
		return 1 << (t.bits - 1)
	case t.kind == 's':
		limit := math.Ldexp(1, t.bits-1)
		if x >= limit {
			return t.mask() >> 1
		}
		if x < -limit {
			return 1 << (t.bits - 1)
		}
		return uint64(int64(x)) & t.mask()
	}
	if x <= 0 {
		return 0
	}
	if x >= math.Ldexp(1, t.bits) {
		return t.mask()
	}
	return uint64(x)
}

// fromInteger converts an integer of a type to a float of the given width.
func fromInteger(x uint64, from typ, width int, mode rounding) uint64 {
	v := new(big.Float).SetPrec(64).SetUint64(x)
	if from.kind == 's' {
		v.SetInt64(from.signed(x))
	}
	if width == 32 {
		r, _ := v.Float32()
		switch mode.step(float64(r), v.Cmp(new(big.Float).SetFloat64(float64(r)))) {
		case 1:
			r = math.Nextafter32(r, float32(math.Inf(1)))
		case -1:
			r = math.Nextafter32(r, float32(math.Inf(-1)))
		}
		return bits32(r)
	}
	r, _ := v.Float64()
	switch mode.step(r, v.Cmp(new(big.Float).SetFloat64(r))) {
	case 1:
		r = math.Nextafter(r, math.Inf(1))
	case -1:
		r = math.Nextafter(r, math.Inf(-1))
	}
	return bits64(r)
}

// narrow rounds a float64 to a float32.
func narrow(x float64, mode rounding) float32 {
	r := float32(x)
	if !finite(x) {
		return r
	}
	miss := 0
	if q := float64(r); x > q {
		miss = 1
	} else if x < q {
		miss = -1
	}
	switch mode.step(float64(r), miss) {
	case 1:
		return math.Nextafter32(r, float32(math.Inf(1)))
	case -1:
		return math.Nextafter32(r, float32(math.Inf(-1)))
	}
	return r
}

// half16 rounds a float32 to a float16, to nearest.
func half16(x float32) uint64 {
	b := math.Float32bits(x)
	s := uint64(b >> 16 & 0x8000)
	switch a := math.Abs(float64(x)); {
	case x != x:
		return 0x7fff
	case a >= 65520: // half-way from the largest to the next
		return s | 0x7c00
	case a < 0x1p-14: // subnormal: multiples of 2⁻²⁴
		return s | uint64(math.RoundToEven(a*0x1p24))
	}
	m := uint64(b & 0x7fff_ffff)
	m += 0xfff + m>>13&1 // to even
	return s | (m>>13 - (127-15)<<10)
}

// from16 is the value of a float16.
func from16(h uint64) float32 {
	s, e, m := h>>15&1, int(h>>10&31), float64(h&0x3ff)
	var v float64
	switch {
	case e == 31 && m != 0:
		return math.Float32frombits(nan32)
	case e == 31:
		v = math.Inf(1)
	case e == 0:
		v = m * 0x1p-24
	default:
		v = math.Ldexp(m+1024, e-25)
	}
	if s != 0 {
		v = -v
	}
	return float32(v)
}

// high is the upper half of a product.
func high(x, y uint64, t typ) uint64 {
	if t.bits < 64 {
		if t.kind == 's' {
			return uint64(t.signed(x)*t.signed(y)) >> t.bits & t.mask()
		}
		return x * y >> t.bits
	}
	h, _ := bits.Mul64(x, y)
	if t.kind == 's' {
		if int64(x) < 0 {
			h -= y
		}
		if int64(y) < 0 {
			h -= x
		}
	}
	return h
}
