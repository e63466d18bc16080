// Command gen writes the AVX2 kernels; see the go:generate line of package kernel.
//
// Every kernel does the arithmetic of its portable twin on eight lanes: separate
// products and sums in the same order, never a fused multiply-add, so that both
// give the same bits.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	stage(2, butterfly2)
	stage(3, butterfly3)
	stage(4, butterfly4)
	stage(5, butterfly5)
	multiply("multiplyAVX2", true, false)
	multiply("multiplyAddAVX2", true, true)
	multiply("scaleAVX2", false, false)
	multiply("scaleAddAVX2", false, true)
	transpose()
	transmit()
	rotate()
	addNorm()
	Generate()
}

// vec is eight float32 lanes, cvec their real and imaginary parts.
type (
	vec  = reg.VecVirtual
	cvec struct{ re, im vec }
)

func add(a, b vec) vec { r := YMM(); VADDPS(b, a, r); return r }
func sub(a, b vec) vec { r := YMM(); VSUBPS(b, a, r); return r }
func mul(a Op, b vec) vec {
	r := YMM()
	VMULPS(a, b, r)
	return r
}

func cadd(a, b cvec) cvec { return cvec{add(a.re, b.re), add(a.im, b.im)} }
func csub(a, b cvec) cvec { return cvec{sub(a.re, b.re), sub(a.im, b.im)} }

// cmul is (a.re·b.re − a.im·b.im, a.re·b.im + a.im·b.re).
func cmul(a, b cvec) cvec {
	return cvec{sub(mul(a.re, b.re), mul(a.im, b.im)), add(mul(a.re, b.im), mul(a.im, b.re))}
}

// plusI and minusI are a + i·b and a − i·b.
func plusI(a, b cvec) cvec  { return cvec{sub(a.re, b.im), add(a.im, b.re)} }
func minusI(a, b cvec) cvec { return cvec{add(a.re, b.im), sub(a.im, b.re)} }

func cscale(k float32, a cvec) cvec {
	return cvec{mul(constant(k), a.re), mul(constant(k), a.im)}
}

// constants are 32-byte broadcasts, one symbol per value.
var constants = map[uint32]Mem{}

func constant(k float32) Mem { return bits(math.Float32bits(k)) }

func bits(b uint32) Mem {
	m, ok := constants[b]
	if !ok {
		m = GLOBL(fmt.Sprintf("const%08x", b), 8|16) // RODATA|NOPTR
		for i := range 8 {
			DATA(4*i, U32(b))
		}
		constants[b] = m
	}
	return m
}

func load(m Mem) vec { r := YMM(); VMOVUPS(m, r); return r }

func broadcast(m Mem) vec { r := YMM(); VBROADCASTSS(m, r); return r }

// stage writes one radix's step of Stockham's algorithm: m butterflies, each over
// runs of w bytes.
func stage(radix int, butterfly func(in func(j int) cvec, twiddle func(j int) cvec, out func(j int, v cvec))) {
	TEXT(fmt.Sprintf("butterfly%dAVX2", radix), NOSPLIT, "func(yr, yi, xr, xi *float32, m, w int, tw *float32)")
	Pragma("noescape")
	yr, yi := Load(Param("yr"), GP64()), Load(Param("yi"), GP64())
	xr, xi := Load(Param("xr"), GP64()), Load(Param("xi"), GP64())
	m, w, tw := Load(Param("m"), GP64()), Load(Param("w"), GP64()), Load(Param("tw"), GP64())
	// Distances in bytes of the inputs and of the outputs of a butterfly.
	step := GP64()
	MOVQ(m, step)
	IMULQ(w, step)
	step3, w3, n := step, w, GP64()
	if radix >= 4 {
		step3, w3 = GP64(), GP64()
		LEAQ(Mem{Base: step, Index: step, Scale: 2}, step3)
		LEAQ(Mem{Base: w, Index: w, Scale: 2}, w3)
	}
	at := func(base, unit, triple reg.Register, j int) Mem {
		switch j {
		case 0:
			return Mem{Base: base}
		case 3:
			return Mem{Base: base, Index: triple, Scale: 1}
		default: // 1, 2, 4
			return Mem{Base: base, Index: unit, Scale: uint8(j)}
		}
	}
	Label("butterfly")
	// Few twiddles stay in registers over a run; radix 5 needs these for data.
	var held []cvec
	if radix < 5 {
		for j := range radix - 1 {
			held = append(held, cvec{broadcast(Mem{Base: tw, Disp: 8 * j}), broadcast(Mem{Base: tw, Disp: 8*j + 4})})
		}
	}
	MOVQ(w, n)
	Label("run")
	butterfly(
		func(j int) cvec { return cvec{load(at(xr, step, step3, j)), load(at(xi, step, step3, j))} },
		func(j int) cvec {
			if held != nil {
				return held[j-1]
			}
			return cvec{broadcast(Mem{Base: tw, Disp: 8 * (j - 1)}), broadcast(Mem{Base: tw, Disp: 8*(j-1) + 4})}
		},
		func(j int, v cvec) {
			VMOVUPS(v.re, at(yr, w, w3, j))
			VMOVUPS(v.im, at(yi, w, w3, j))
		},
	)
	for _, p := range []reg.Register{xr, xi, yr, yi} {
		ADDQ(Imm(32), p)
	}
	SUBQ(Imm(32), n)
	JNE(LabelRef("run"))
	// The outputs of the next butterfly start behind those of this one.
	for range radix - 1 {
		ADDQ(w, yr)
		ADDQ(w, yi)
	}
	ADDQ(Imm(uint64(8*(radix-1))), tw)
	DECQ(m)
	JNE(LabelRef("butterfly"))
	VZEROUPPER()
	RET()
}

func butterfly2(in, twiddle func(int) cvec, out func(int, cvec)) {
	a, b := in(0), in(1)
	out(0, cadd(a, b))
	out(1, cmul(csub(a, b), twiddle(1)))
}

func butterfly3(in, twiddle func(int) cvec, out func(int, cvec)) {
	const sin60 = 0.86602540378443864676
	a, b, c := in(0), in(1), in(2)
	s := cadd(b, c)
	d := cscale(sin60, csub(b, c))
	h := csub(a, cscale(0.5, s))
	out(0, cadd(a, s))
	out(1, cmul(minusI(h, d), twiddle(1)))
	out(2, cmul(plusI(h, d), twiddle(2)))
}

func butterfly4(in, twiddle func(int) cvec, out func(int, cvec)) {
	a, c := in(0), in(2)
	p, m := cadd(a, c), csub(a, c)
	b, d := in(1), in(3)
	q, n := cadd(b, d), csub(b, d)
	out(0, cadd(p, q))
	out(2, cmul(csub(p, q), twiddle(2)))
	out(1, cmul(minusI(m, n), twiddle(1)))
	out(3, cmul(plusI(m, n), twiddle(3)))
}

func butterfly5(in, twiddle func(int) cvec, out func(int, cvec)) {
	const (
		c1 = 0.30901699437494742410
		c2 = -0.80901699437494742410
		s1 = 0.95105651629515357212
		s2 = 0.58778525229247312917
	)
	// Sixteen registers do not hold everything at once: the sums and differences are
	// formed for the outputs 1 and 4, and again for 2 and 3.
	inputs := func() (a, p, m, q, n cvec) {
		b, e := in(1), in(4)
		p, m = cadd(b, e), csub(b, e)
		c, d := in(2), in(3)
		q, n = cadd(c, d), csub(c, d)
		return in(0), p, m, q, n
	}
	a, p, m, q, n := inputs()
	out(0, cadd(cadd(a, p), q))
	h := cadd(cadd(a, cscale(c1, p)), cscale(c2, q))
	g := cadd(cscale(s1, m), cscale(s2, n))
	out(1, cmul(minusI(h, g), twiddle(1)))
	out(4, cmul(plusI(h, g), twiddle(4)))

	a, p, m, q, n = inputs()
	h = cadd(cadd(a, cscale(c2, p)), cscale(c1, q))
	g = csub(cscale(s2, m), cscale(s1, n))
	out(2, cmul(minusI(h, g), twiddle(2)))
	out(3, cmul(plusI(h, g), twiddle(3)))
}

// loop repeats body over n vectors, advancing the pointers.
func loop(n reg.Register, body func(), pointers ...reg.Register) {
	Label("loop")
	body()
	for _, p := range pointers {
		ADDQ(Imm(32), p)
	}
	DECQ(n)
	JNE(LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func multiply(name string, complexH, accumulate bool) {
	TEXT(name, NOSPLIT, "func(dr, di, xr, xi, hr, hi *float32, n int)")
	Pragma("noescape")
	ptr := func(s string) reg.Register { return Load(Param(s), GP64()) }
	dr, di, xr, xi, hr := ptr("dr"), ptr("di"), ptr("xr"), ptr("xi"), ptr("hr")
	hi := hr
	pointers := []reg.Register{dr, di, xr, xi, hr}
	if complexH {
		hi = ptr("hi")
		pointers = append(pointers, hi)
	}
	n := ptr("n")
	loop(n, func() {
		x := cvec{load(Mem{Base: xr}), load(Mem{Base: xi})}
		var v cvec
		if complexH {
			v = cmul(x, cvec{load(Mem{Base: hr}), load(Mem{Base: hi})})
		} else {
			h := load(Mem{Base: hr})
			v = cvec{mul(x.re, h), mul(x.im, h)}
		}
		if accumulate {
			VADDPS(Mem{Base: dr}, v.re, v.re)
			VADDPS(Mem{Base: di}, v.im, v.im)
		}
		VMOVUPS(v.re, Mem{Base: dr})
		VMOVUPS(v.im, Mem{Base: di})
	}, pointers...)
}

// transpose moves a 16×16 tile as four 8×8 ones.
func transpose() {
	TEXT("transposeAVX2", NOSPLIT, "func(dst, src *float32)")
	Pragma("noescape")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	for i := range 2 {
		for j := range 2 {
			var a, b, c [8]vec
			for k := range 8 {
				a[k] = load(Mem{Base: src, Disp: 64*(8*i+k) + 32*j})
			}
			for k := 0; k < 8; k += 2 {
				b[k], b[k+1] = YMM(), YMM()
				VUNPCKLPS(a[k+1], a[k], b[k])
				VUNPCKHPS(a[k+1], a[k], b[k+1])
			}
			for k := 0; k < 8; k += 4 {
				for l := range 2 {
					c[k+2*l], c[k+2*l+1] = YMM(), YMM()
					VUNPCKLPD(b[k+2+l], b[k+l], c[k+2*l])
					VUNPCKHPD(b[k+2+l], b[k+l], c[k+2*l+1])
				}
			}
			for k := range 4 {
				lo, hi := YMM(), YMM()
				VPERM2F128(Imm(0x20), c[k+4], c[k], lo)
				VPERM2F128(Imm(0x31), c[k+4], c[k], hi)
				VMOVUPS(lo, Mem{Base: dst, Disp: 64*(8*j+k) + 32*i})
				VMOVUPS(hi, Mem{Base: dst, Disp: 64*(8*j+k+4) + 32*i})
			}
		}
	}
	VZEROUPPER()
	RET()
}

// transmit multiplies by exp(i·phase); the steps are those of sincos.
func transmit() {
	TEXT("transmitAVX2", NOSPLIT, "func(re, im, phase *float32, n int)")
	Pragma("noescape")
	re, im, phase := Load(Param("re"), GP64()), Load(Param("im"), GP64()), Load(Param("phase"), GP64())
	n := Load(Param("n"), GP64())
	const (
		round = 3 << 22
		hi    = 1.5703125
		lo    = math.Pi/2 - hi
	)
	addConst := func(a vec, k float32) vec { r := YMM(); VADDPS(constant(k), a, r); return r }
	loop(n, func() {
		x := load(Mem{Base: phase})
		q := addConst(mul(constant(2/math.Pi), x), round)
		k := YMM()
		VSUBPS(constant(round), q, k)
		r := sub(sub(x, mul(constant(hi), k)), mul(constant(lo), k))
		z := mul(r, r)
		s := addConst(mul(constant(1./362880), z), -1./5040)
		s = addConst(mul(z, s), 1./120)
		s = addConst(mul(z, s), -1./6)
		s = add(mul(mul(z, s), r), r)
		c := addConst(mul(constant(1./40320), z), -1./720)
		c = addConst(mul(z, c), 1./24)
		c = addConst(mul(z, c), -0.5)
		c = addConst(mul(z, c), 1)
		// Odd quadrants exchange sine and cosine; bit 0 becomes the sign bit, which
		// the blend looks at.
		odd := YMM()
		VPSLLD(Imm(31), q, odd)
		sin, cos := YMM(), YMM()
		VBLENDVPS(odd, c, s, sin)
		VBLENDVPS(odd, s, c, cos)
		sign := YMM()
		VPAND(bits(2), q, sign)
		VPSLLD(Imm(30), sign, sign)
		VXORPS(sign, sin, sin)
		VPADDD(bits(1), q, sign)
		VPAND(bits(2), sign, sign)
		VPSLLD(Imm(30), sign, sign)
		VXORPS(sign, cos, cos)
		v := cmul(cvec{load(Mem{Base: re}), load(Mem{Base: im})}, cvec{cos, sin})
		VMOVUPS(v.re, Mem{Base: re})
		VMOVUPS(v.im, Mem{Base: im})
	}, re, im, phase)
}

// rotate multiplies n rows of 16 by the product of a factor per row and one per
// column.
func rotate() {
	TEXT("rotateAVX2", NOSPLIT, "func(dr, di, xr, xi, rowRe, rowIm, colRe, colIm *float32, n int)")
	Pragma("noescape")
	ptr := func(s string) reg.Register { return Load(Param(s), GP64()) }
	dr, di, xr, xi, rr, ri := ptr("dr"), ptr("di"), ptr("xr"), ptr("xi"), ptr("rowRe"), ptr("rowIm")
	cr, ci := ptr("colRe"), ptr("colIm")
	n := ptr("n")
	var col [2]cvec
	for i := range col {
		col[i] = cvec{load(Mem{Base: cr, Disp: 32 * i}), load(Mem{Base: ci, Disp: 32 * i})}
	}
	Label("row")
	row := cvec{broadcast(Mem{Base: rr}), broadcast(Mem{Base: ri})}
	for i := range col {
		x := cvec{load(Mem{Base: xr, Disp: 32 * i}), load(Mem{Base: xi, Disp: 32 * i})}
		v := cmul(x, cmul(row, col[i]))
		VMOVUPS(v.re, Mem{Base: dr, Disp: 32 * i})
		VMOVUPS(v.im, Mem{Base: di, Disp: 32 * i})
	}
	for _, p := range []reg.Register{dr, di, xr, xi} {
		ADDQ(Imm(64), p)
	}
	ADDQ(Imm(4), rr)
	ADDQ(Imm(4), ri)
	DECQ(n)
	JNE(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// addNorm adds re² + im² to sum.
func addNorm() {
	TEXT("addNormAVX2", NOSPLIT, "func(sum, re, im *float32, n int)")
	Pragma("noescape")
	sum, re, im := Load(Param("sum"), GP64()), Load(Param("re"), GP64()), Load(Param("im"), GP64())
	n := Load(Param("n"), GP64())
	loop(n, func() {
		a, b := load(Mem{Base: re}), load(Mem{Base: im})
		v := add(mul(a, a), mul(b, b))
		VADDPS(Mem{Base: sum}, v, v)
		VMOVUPS(v, Mem{Base: sum})
	}, sum, re, im)
}
