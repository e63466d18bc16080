package ptx

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/refocus-em/refocus/harness/half"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// The oracle: exact rational arithmetic, and roundings by their definition.

// rounded is the number of width 32 or 64, as a float64, to which mode rounds an exact
// value: compare tells its sign less that of a rational number.
func rounded(width int, mode rounding, near float64, compare func(*big.Rat) int) float64 {
	next := func(x, towards float64) float64 {
		if width == 32 {
			return float64(math.Nextafter32(float32(x), float32(towards)))
		}
		return math.Nextafter(x, towards)
	}
	largest := math.MaxFloat64
	limit := new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), 1024)) // beyond the largest
	if width == 32 {
		largest = math.MaxFloat32
		limit = new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), 128))
		near = float64(float32(near))
	}
	rational := func(x float64) *big.Rat {
		if math.IsInf(x, 0) {
			r := new(big.Rat).Set(limit)
			if x < 0 {
				r.Neg(r)
			}
			return r
		}
		return new(big.Rat).SetFloat64(x)
	}
	near = max(-largest, min(largest, near))
	// Down to the largest number that is not above.
	low := near
	for !math.IsInf(low, -1) && compare(rational(low)) < 0 {
		low = next(low, math.Inf(-1))
	}
	for {
		up := next(low, math.Inf(1))
		if math.IsInf(up, 1) || compare(rational(up)) < 0 {
			break
		}
		low = up
	}
	if !math.IsInf(low, -1) && compare(rational(low)) == 0 {
		return low
	}
	high := next(low, math.Inf(1))
	switch mode {
	case down:
		return low
	case up:
		return high
	case zero:
		if compare(new(big.Rat)) > 0 {
			return low
		}
		return high
	}
	middle := new(big.Rat).Add(rational(low), rational(high))
	switch compare(middle.Quo(middle, big.NewRat(2, 1))) {
	case 1:
		return high
	case -1:
		return low
	}
	even := math.Float64bits(low)&1 == 0
	if width == 32 {
		even = math.Float32bits(float32(low))&1 == 0
	}
	if even {
		return low
	}
	return high
}

// oracle is the exact result of an operation on finite numbers, rounded.
func oracle(width int, o operation, mode rounding, a, b, c float64) float64 {
	x, y, z := new(big.Rat).SetFloat64(a), new(big.Rat).SetFloat64(b), new(big.Rat).SetFloat64(c)
	near := o.nearest64(a, b, c)
	if o == root {
		return rounded(width, mode, near, func(q *big.Rat) int {
			if q.Sign() < 0 {
				return 1
			}
			return x.Cmp(new(big.Rat).Mul(q, q))
		})
	}
	v := new(big.Rat)
	switch o {
	case sum:
		v.Add(x, y)
	case product:
		v.Mul(x, y)
	case fused:
		v.Add(v.Mul(x, y), z)
	case quotient:
		v.Quo(x, y)
	}
	return rounded(width, mode, near, v.Cmp)
}

// numbers draws finite numbers of single precision, often such that sums cancel, results
// are subnormal, overflow or lie half-way.
func numbers(r *rand.Rand) (a, b, c float32) {
	of := func(exponent int) float32 {
		m := r.Uint32() & 0x7f_ffff
		switch r.IntN(4) {
		case 0:
			m &= 0x7f_f000 // few bits
		case 1:
			m |= 0x7f_ff00 // many
		}
		return math.Float32frombits(r.Uint32()&0x8000_0000 | uint32(max(0, min(254, exponent)))<<23 | m)
	}
	switch r.IntN(5) {
	case 0: // anything
		return of(r.IntN(255)), of(r.IntN(255)), of(r.IntN(255))
	case 1: // tiny products
		e := r.IntN(150)
		return of(e), of(127 - e + r.IntN(60) - 30), of(r.IntN(4))
	case 2: // sums with a far smaller part
		e := r.IntN(255)
		return of(e), of(254 - e + r.IntN(8) - 4), of(127 + r.IntN(120) - 60)
	case 3: // cancellation
		a, b = of(100+r.IntN(50)), of(100+r.IntN(50))
		return a, b, -float32(float64(a) * float64(b))
	}
	// A sum half-way between two floats, or a trifle beside.
	c = of(110 + r.IntN(30))
	half := float32(math.Abs(float64(math.Nextafter32(c, 1000*c))-float64(c)) / 2)
	b = 1
	if r.IntN(2) == 0 {
		b += 0x1p-23
	}
	return half, b, c
}

// Operations agree with exact arithmetic in every rounding.
func TestRounding(t *testing.T) {
	r := seed.Rand(t)
	for range 4000 {
		a, b, c := numbers(r)
		for _, o := range []operation{sum, product, fused, quotient, root} {
			if o == root {
				a = float32(math.Abs(float64(a)))
			}
			if o == quotient && b == 0 {
				continue
			}
			for _, mode := range []rounding{nearest, zero, down, up} {
				got, want := o.do32(mode, a, b, c), oracle(32, o, mode, float64(a), float64(b), float64(c))
				if float64(got) != want {
					t.Fatalf("operation %d, %s, of %x, %x, %x: %x, want %x", o, mode, a, b, c, got, want)
				}
			}
		}
	}
	for range 300 {
		a, b, c := numbers(r)
		x, y, z := float64(a)*(1+r.Float64()*0x1p-20), float64(b)*(1+r.Float64()*0x1p-20), float64(c)*(1+r.Float64()*0x1p-20)
		if r.IntN(4) == 0 {
			x, y, z = x*0x1p-500, y*0x1p-540, z*0x1p-1000 // subnormal
		}
		for _, o := range []operation{sum, product, fused, quotient, root} {
			if o == root {
				x = math.Abs(x)
			}
			if o == quotient && y == 0 {
				continue
			}
			for _, mode := range []rounding{nearest, zero, down, up} {
				if got, want := o.do64(mode, x, y, z), oracle(64, o, mode, x, y, z); got != want {
					t.Fatalf("operation %d, %s, of %x, %x, %x: %x, want %x", o, mode, x, y, z, got, want)
				}
			}
		}
	}
}

// What rounding a fused multiply-add by way of float64 gets wrong: p+c lies next to
// half-way between two floats, nearer than float64 can tell.
func TestFusedOnce(t *testing.T) {
	const odd = 1 + 0x1p-23 // half-way to the next goes up
	minus := float32(math.Copysign(0, -1))
	for _, v := range [][4]float32{
		{0x1p-24, 1, odd, 1 + 0x1p-22},                                // half-way: to even, which is up
		{0x1p-24, 1, 1, 1},                                            // and down
		{0x1.000002p-12, 0x1.000002p-12, 1, odd},                      // 2⁻²⁴ and 2⁻⁴⁶ more
		{0x1.000002p-62, 0x1.fffffcp+37, odd, odd},                    // 2⁻²⁴ less 2⁻⁷⁰, which the sum in float64 loses
		{-0x1.000002p-62, -0x1.fffffcp+37, odd, odd},                  //
		{0x1.000002p-42, 0x1.fffffcp+17, -odd, -odd},                  // the same, towards 1: half-way would be even
		{0x1.000002p+6, 0x1.000002p0, 0x1.000002p+30, 0x1.000004p+30}, // beyond 2⁶, half of the last bit
		{-0x1p-149, 0x1p-149, 0x1p-149, 0x1p-149},                     // far below the least number
		{0x1.8p-75, 0x1p-75, 0, 0x1p-149},                             // three quarters of the least
		{0x1p-75, 0x1p-75, 0, 0},                                      // half of the least: to even
		{-0x1p-75, 0x1p-75, 0, minus},                                 // with its sign
		{0x1.000002p-75, 0x1p-75, 0, 0x1p-149},                        // more than half
	} {
		if got := fma32(v[0], v[1], v[2]); math.Float32bits(got) != math.Float32bits(v[3]) {
			t.Errorf("%x·%x + %x = %x, want %x", v[0], v[1], v[2], got, v[3])
		}
	}
}

// fuse32's fast way is taken for what it is right for only.
func TestFusedLanes(t *testing.T) {
	r := seed.Rand(t)
	w := &warp{regs: make([]vector, 4)}
	run := fuse32(0, 1, 2, 3)
	special := []float32{0, float32(math.Copysign(0, -1)), float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 0x1p-149, math.MaxFloat32, 1}
	for range 3000 {
		for l := range 32 {
			a, b, c := numbers(r)
			if r.IntN(20) == 0 {
				a, b, c = special[r.IntN(8)], special[r.IntN(8)], special[r.IntN(8)]
			}
			w.regs[1][l], w.regs[2][l], w.regs[3][l] = uint64(math.Float32bits(a)), uint64(math.Float32bits(b)), uint64(math.Float32bits(c))
		}
		run(w, fullWarp)
		for l := range 32 {
			a, b, c := f32(w.regs[1][l]), f32(w.regs[2][l]), f32(w.regs[3][l])
			want := bits32(float32(math.FMA(float64(a), float64(b), float64(c)))) // for what is not finite
			if finite(float64(a), float64(b), float64(c)) {
				exact := new(big.Float).SetPrec(600).Mul(wide(float64(a)), wide(float64(b)))
				v, _ := exact.Add(exact, wide(float64(c))).Float32()
				if v != 0 { // the sign of an exact zero is float64's
					want = bits32(v)
				} else if exact.Sign() != 0 {
					want = uint64(math.Float32bits(v))
				}
			}
			if w.regs[0][l] != want {
				t.Fatalf("%x·%x + %x = %#x, want %#x", a, b, c, w.regs[0][l], want)
			}
		}
	}
}

// Signs of zeros.
func TestZeros(t *testing.T) {
	minus := math.Copysign(0, -1)
	for _, v := range []struct {
		o       operation
		mode    rounding
		a, b, c float64
		want    float64
	}{
		{sum, nearest, 1, -1, 0, 0},
		{sum, down, 1, -1, 0, minus},
		{sum, up, 1, -1, 0, 0},
		{sum, down, 0, 0, 0, 0},
		{sum, down, 0, minus, 0, minus},
		{sum, nearest, minus, minus, 0, minus},
		{product, down, 0, 1, 0, 0},
		{product, nearest, minus, 1, 0, minus},
		{fused, down, 2, 3, -6, minus},
		{fused, nearest, 2, 3, -6, 0},
		{fused, down, 0, 3, 0, 0},
		{fused, down, 0, 3, minus, minus},
		{quotient, nearest, minus, 3, 0, minus},
		{root, nearest, minus, 0, 0, minus},
	} {
		for width, got := range map[int]float64{32: float64(v.o.do32(v.mode, float32(v.a), float32(v.b), float32(v.c))), 64: v.o.do64(v.mode, v.a, v.b, v.c)} {
			if math.Float64bits(got) != math.Float64bits(v.want) {
				t.Errorf("width %d, %+v: %v", width, v, got)
			}
		}
	}
}

// Half precision agrees with package half, which has tests of its own.
func TestHalf(t *testing.T) {
	for h := range uint64(1 << 16) {
		got, want := from16(h), half.Float32(uint16(h))
		if got != want && got == got {
			t.Fatalf("%#x is %v, want %v", h, got, want)
		}
		if got == got && half16(got) != h {
			t.Fatalf("%#x comes back as %#x", h, half16(got))
		}
	}
	r := seed.Rand(t)
	for range 100000 {
		x := math.Float32frombits(r.Uint32())
		if got, want := half16(x), uint64(half.Bits(x)); got != want && x == x {
			t.Fatalf("%v is %#x, want %#x", x, got, want)
		}
	}
}

// Conversions of integers to floats round once, in every mode.
func TestFromInteger(t *testing.T) {
	r := seed.Rand(t)
	for range 3000 {
		x := r.Uint64() >> r.IntN(64)
		for _, from := range []typ{{'u', 64}, {'s', 64}, {'u', 32}, {'s', 32}} {
			v := x & from.mask()
			exact := new(big.Rat).SetInt(new(big.Int).SetUint64(v))
			if from.kind == 's' {
				exact.SetInt64(from.signed(v))
			}
			near, _ := exact.Float64()
			for _, mode := range []rounding{nearest, zero, down, up} {
				for _, width := range []int{32, 64} {
					got := floatOf(fromInteger(v, from, width, mode), typ{'f', width})
					if want := rounded(width, mode, near, exact.Cmp); got != want {
						t.Fatalf("%s %#x to f%d, %s: %v, want %v", from, v, width, mode, got, want)
					}
				}
			}
		}
	}
}

func TestToInteger(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	for _, v := range []struct {
		x    float64
		to   string
		from int
		want uint64
	}{
		{2.5, "s32", 32, 2}, {-3, "s32", 32, 0xffff_fffd}, {3e9, "s32", 32, 0x7fff_ffff}, {-3e9, "s32", 32, 0x8000_0000},
		{3e9, "u32", 32, 3e9}, {-1, "u32", 32, 0}, {5e9, "u32", 32, 0xffff_ffff}, {inf, "s64", 64, math.MaxInt64},
		{-inf, "s64", 64, 1 << 63}, {inf, "u64", 64, math.MaxUint64}, {nan, "s32", 32, 0}, {nan, "u32", 32, 0},
		{nan, "s32", 64, 1 << 31}, {nan, "s64", 32, 1 << 63}, {nan, "u64", 64, 1 << 63}, {300, "u8", 32, 255}, {-200, "s8", 32, 0x80},
	} {
		to, _ := typeOf(v.to)
		if got := toInteger(rounding("rni").round64(v.x), to, typ{'f', v.from}); got != v.want {
			t.Errorf("%v from f%d to %s: %#x, want %#x", v.x, v.from, v.to, got, v.want)
		}
	}
}

// The upper halves of products, against big integers.
func TestHigh(t *testing.T) {
	r := seed.Rand(t)
	for range 20000 {
		for _, ty := range []typ{{'u', 16}, {'s', 16}, {'u', 32}, {'s', 32}, {'u', 64}, {'s', 64}} {
			x, y := r.Uint64()&ty.mask(), r.Uint64()&ty.mask()
			value := func(v uint64) *big.Int {
				if ty.kind == 's' {
					return big.NewInt(ty.signed(v))
				}
				return new(big.Int).SetUint64(v)
			}
			p := new(big.Int).Mul(value(x), value(y))
			p.Rsh(p, uint(ty.bits))
			p.And(p, new(big.Int).SetUint64(ty.mask()))
			if got := high(x, y, ty); got != p.Uint64() {
				t.Fatalf("%s: %#x·%#x: %#x, want %s", ty, x, y, got, fmt.Sprintf("%#x", p))
			}
		}
	}
}
