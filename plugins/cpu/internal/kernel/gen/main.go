// Command gen writes the AVX2 and AVX-512 kernels: go run ./gen -out
// kernel_amd64.s -stubs stubs_amd64.go -pkg kernel. It needs no vendor header and
// no C compiler.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel/winograd"
)

func main() {
	conv(2, false)
	conv(1, false)
	conv(1, true)
	transforms(false)
	transforms(true)
	rows()
	pool()
	transpose()
	adam()
	loss()
	peak(false)
	peak(true)
	Generate()
}

// vec is eight float32 lanes, or sixteen in AVX-512 kernels. A nil register is
// absent.
type vec = reg.VecVirtual

// symbols holds the read-only data, one symbol per value.
var symbols = map[string]Mem{}

// broadcast is a value of size bytes that fills the 32 bytes of a symbol.
func broadcast(name string, size int, value Constant) Mem {
	m, ok := symbols[name]
	if !ok {
		m = GLOBL(name, 8|16) // RODATA|NOPTR
		for i := 0; i < 32; i += size {
			DATA(i, value)
		}
		symbols[name] = m
	}
	return m
}

func constant(k float32) Mem {
	b := math.Float32bits(k)
	return broadcast(fmt.Sprintf("const%08x", b), 4, U32(b))
}

func double(k float64) Mem {
	b := math.Float64bits(k)
	return broadcast(fmt.Sprintf("double%016x", b), 8, U64(b))
}

// ret returns with the upper halves of the registers clean: Go's SSE code would
// wait for and merge them on Intel's processors.
func ret() {
	VZEROUPPER()
	RET()
}

// emit is the arithmetic of package winograd as instructions, on eight lanes or,
// where wide, on sixteen: two tiles.
type emit struct{ wide bool }

func (e emit) reg() vec {
	if e.wide {
		return ZMM()
	}
	return YMM()
}

func (e emit) Add(a, b vec) vec { r := e.reg(); VADDPS(b, a, r); return r }
func (e emit) Sub(a, b vec) vec { r := e.reg(); VSUBPS(b, a, r); return r }
func (e emit) Mul(k float32, a vec) vec {
	r := e.reg()
	if e.wide {
		VMULPS_BCST(constant(k), a, r)
	} else {
		VMULPS(constant(k), a, r)
	}
	return r
}
func (e emit) FMA(k float32, a, b vec) vec {
	r := e.reg()
	VMOVAPS(a, r)
	if e.wide {
		VFMADD132PS_BCST(constant(k), b, r)
	} else {
		VFMADD132PS(constant(k), b, r)
	}
	return r
}

// load and store move a vector. Where wide, the second tile is next bytes on.
func (e emit) load(m Mem, next reg.Register) vec {
	r := e.reg()
	if !e.wide {
		VMOVUPS(m, r)
		return r
	}
	VBROADCASTF32X8(m, r)
	m.Index, m.Scale = next, 1
	VINSERTF32X8(Imm(1), m, r, r)
	return r
}

func (e emit) store(v vec, m Mem, next reg.Register) {
	if !e.wide {
		VMOVUPS(v, m)
		return
	}
	VMOVUPS(v.AsY(), m)
	m.Index, m.Scale = next, 1
	VEXTRACTF32X8(Imm(1), v, m)
}

// transforms writes the two-dimensional Winograd transforms over a row of tiles.
// The wide ones take two tiles at a time, one in each half of a register; there
// are none of F(2,3), which is bound by its stores.
func transforms(wide bool) {
	e := emit{wide}
	for _, t := range []struct {
		name string
		t    winograd.Transform[vec]
		// pixel operands are [row][column][8], point operands [point]…; step is
		// how many pixels one tile advances.
		fromPixels, toPixels bool
		step                 int
	}{
		{"input2", winograd.Input2[vec](), true, false, 2},
		{"inputUp2", winograd.InputUp2[vec](), true, false, 1},
		{"output2", winograd.Output2[vec](), false, true, 2},
		{"outputDown2", winograd.OutputDown2[vec](), false, true, 1},
		{"weight2", winograd.Weight2[vec](), true, false, 9},
		{"input4", winograd.Input4[vec](), true, false, 4},
		{"inputUp4", winograd.InputUp4[vec](), true, false, 2},
		{"gradient4", winograd.Gradient4[vec](), true, false, 4},
		{"weightGradient4", winograd.WeightGradient4[vec](), false, true, 9},
		{"weightGradientUp4", winograd.WeightGradientUp4[vec](), false, true, 9},
	} {
		if wide && t.t.Element != nil {
			continue
		}
		if wide {
			TEXT(t.name+"AVX512", 0, "func(dst *float32, dstRow, dstTile int, src *float32, srcRow, srcTile int, pairs int)")
			Doc(t.name + "AVX512 is " + t.name + "AVX2 for pairs of tiles.")
		} else {
			TEXT(t.name+"AVX2", 0, "func(dst *float32, dstRow, dstTile int, src *float32, srcRow, srcTile int, tiles int)")
			Doc(t.name + "AVX2 transforms tiles; strides are in bytes, a Row stride is that of a pixel row or of a point.")
		}
		Pragma("noescape")
		dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
		dr, sr := Load(Param("dstRow"), GP64()), Load(Param("srcRow"), GP64())
		dt, st := Load(Param("dstTile"), GP64()), Load(Param("srcTile"), GP64())
		n := GP64()
		if wide {
			Load(Param("pairs"), n)
		} else {
			Load(Param("tiles"), n)
		}
		var from, to func(i, j int) Mem
		// Of the matrix between the passes, what is read first stays in registers,
		// where there are 32.
		slot, regs := 32, 0
		if wide {
			slot, regs = 64, 24
		}
		var held [6][6]vec
		tmp := reg.Register(nil)
		if t.t.Element == nil {
			local := AllocLocal(slot*6*6 + 64)
			tmp = GP64()
			LEAQ(local, tmp)
			ADDQ(Imm(63), tmp)
			ANDQ(I32(-64), tmp)
			Label("tile")
			from, to = walk(src, sr, t.fromPixels, t.t.In), walk(dst, dr, t.toPixels, t.t.Out)
		} else {
			sr3, dr3 := GP64(), GP64()
			LEAQ(Mem{Base: sr, Index: sr, Scale: 2}, sr3)
			LEAQ(Mem{Base: dr, Index: dr, Scale: 2}, dr3)
			Label("tile")
			from, to = reach(src, sr, sr3, t.fromPixels, t.t.In), reach(dst, dr, dr3, t.toPixels, t.t.Out)
		}
		kept := func(i, j int) Mem { return Mem{Base: tmp, Disp: slot * (6*i + j)} }
		winograd.Square[vec](e, t.t,
			func(i, j int) vec { return e.load(from(i, j), st) },
			func(i, j int, v vec) {
				if t.t.In*i+j < regs {
					held[i][j] = v
				} else {
					VMOVUPS(v, kept(i, j))
				}
			},
			func(i, j int) vec {
				if held[i][j] != nil {
					return held[i][j]
				}
				r := e.reg()
				VMOVUPS(kept(i, j), r)
				return r
			},
			func(i, j int, v vec) { e.store(v, to(i, j), dt) })
		ADDQ(dt, dst)
		ADDQ(st, src)
		if wide {
			ADDQ(dt, dst)
			ADDQ(st, src)
		}
		DECQ(n)
		JNE(LabelRef("tile"))
		ret()
	}
}

// walk returns the address of element (i, j) of a matrix of pixels or of points
// w×w, moving a pointer on: elements should be taken in order.
func walk(base, stride reg.Register, pixels bool, w int) func(i, j int) Mem {
	p := GP64()
	cur := -1
	return func(i, j int) Mem {
		want, disp := i*w+j, 0
		if pixels {
			want, disp = i, 32*j
		}
		if cur < 0 || want < cur {
			MOVQ(base, p)
			cur = 0
		}
		for ; cur < want; cur++ {
			ADDQ(stride, p)
		}
		return Mem{Base: p, Disp: disp}
	}
}

// reach is walk for matrices up to 4×4, whose elements are in reach of four
// pointers: base + 4k·stride.
func reach(base, stride, stride3 reg.Register, pixels bool, w int) func(i, j int) Mem {
	var quad [4]reg.Register
	quad[0] = base
	if !pixels {
		for k := 1; k < 4 && 4*k < w*w; k++ {
			quad[k] = GP64()
			LEAQ(Mem{Base: quad[k-1], Index: stride, Scale: 4}, quad[k])
		}
	}
	return func(i, j int) Mem {
		at, disp := i*w+j, 0
		if pixels {
			at, disp = i, 32*j
		}
		m := Mem{Base: quad[at/4], Disp: disp}
		switch at % 4 {
		case 1:
			m.Index, m.Scale = stride, 1
		case 2:
			m.Index, m.Scale = stride, 2
		case 3:
			m.Index, m.Scale = stride3, 1
		}
		return m
	}
}

// rows writes the kernels over rows of pixels of eight channels.
func rows() {
	type operands struct{ g, x, r Mem }
	for _, k := range []struct {
		name       string
		x, r, sums bool
		params     int
		body       func(o operands, p []vec) (d vec, s1, s2 func(acc vec))
	}{
		{"copy", false, false, false, 0, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d := YMM()
			VMOVUPS(o.g, d)
			return d, nil, nil
		}},
		{"act", false, false, false, 2, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d := YMM()
			VMOVUPS(o.g, d)
			VFMADD132PS(p[0], p[1], d)
			zero := YMM()
			VXORPS(zero, zero, zero)
			VMAXPS(d, zero, d)
			return d, nil, nil
		}},
		{"stats", false, false, true, 0, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d := YMM()
			VMOVUPS(o.g, d)
			return d, func(a vec) { VADDPS(d, a, a) }, func(a vec) { VFMADD231PS(d, d, a) }
		}},
		{"addStats", true, false, true, 0, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d := YMM()
			VMOVUPS(o.g, d)
			VADDPS(o.x, d, d)
			return d, func(a vec) { VADDPS(d, a, a) }, func(a vec) { VFMADD231PS(d, d, a) }
		}},
		{"mask", true, false, true, 3, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			x, y, d, zero := YMM(), YMM(), YMM(), YMM()
			VMOVUPS(o.x, x)
			VMOVAPS(x, y)
			VFMADD132PS(p[0], p[1], y)
			VXORPS(zero, zero, zero)
			VCMPPS(Imm(0x1e), zero, y, y) // y > 0, quiet
			VANDPS(o.g, y, d)
			VSUBPS(p[2], x, x)
			return d, func(a vec) { VADDPS(d, a, a) }, func(a vec) { VFMADD231PS(d, x, a) }
		}},
		{"affine", true, false, false, 3, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d, t := YMM(), YMM()
			VMOVUPS(o.x, t)
			VFMADD132PS(p[1], p[2], t)
			VMOVUPS(o.g, d)
			VFMADD132PS(p[0], t, d)
			return d, nil, nil
		}},
		{"affineAdd", true, true, false, 3, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d, t := YMM(), YMM()
			VMOVUPS(o.x, t)
			VFMADD132PS(p[1], p[2], t)
			VMOVUPS(o.g, d)
			VFMADD132PS(p[0], t, d)
			VADDPS(o.r, d, d)
			return d, nil, nil
		}},
		{"half", false, false, false, 0, func(o operands, p []vec) (vec, func(vec), func(vec)) {
			d, h := YMM(), XMM()
			VMOVUPS(o.g, d)
			VCVTPS2PH(Imm(0), d, h)
			VCVTPH2PS(h, d)
			return d, nil, nil
		}},
	} {
		sig := "func(dst *float32, dstCol, dstSkip int, src *float32, srcCol, srcSkip int"
		if k.x {
			sig += ", x *float32, xSkip int"
		}
		if k.r {
			sig += ", r *float32, rSkip int"
		}
		sig += ", rows, cols int"
		if k.params > 0 {
			sig += ", params *float32"
		}
		if k.sums {
			sig += ", sums *float32"
		}
		TEXT(k.name+"AVX2", NOSPLIT, sig+")")
		Pragma("noescape")
		Doc(k.name + "AVX2 is Set." + k.name + "; strides are in bytes, a Skip leads from the end of a row to the next.")
		dst, g := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
		dc, gc := Load(Param("dstCol"), GP64()), Load(Param("srcCol"), GP64())
		var x, r reg.Register
		if k.x {
			x = Load(Param("x"), GP64())
		}
		if k.r {
			r = Load(Param("r"), GP64())
		}
		rows, n := Load(Param("rows"), GP64()), GP64()
		var p []vec
		if k.params > 0 {
			ptr := Load(Param("params"), GP64())
			for i := range k.params {
				p = append(p, YMM())
				VMOVUPS(Mem{Base: ptr, Disp: 32 * i}, p[i])
			}
		}
		// Four pairs of partial sums by column modulo four hide the latency of
		// the chains.
		const partial = 4
		var s1, s2 [partial]vec
		if k.sums {
			for i := range partial {
				s1[i], s2[i] = YMM(), YMM()
				VXORPS(s1[i], s1[i], s1[i])
				VXORPS(s2[i], s2[i], s2[i])
			}
		}
		one := func(i int) {
			o := operands{g: Mem{Base: g}}
			if k.x {
				o.x = Mem{Base: x, Disp: 0}
			}
			if k.r {
				o.r = Mem{Base: r, Disp: 0}
			}
			d, f1, f2 := k.body(o, p)
			VMOVUPS(d, Mem{Base: dst})
			ADDQ(dc, dst)
			ADDQ(gc, g)
			if k.x {
				ADDQ(Imm(32), x)
			}
			if k.r {
				ADDQ(Imm(32), r)
			}
			if k.sums {
				f1(s1[i])
				f2(s2[i])
			}
		}
		Label("row")
		Load(Param("cols"), n)
		SUBQ(Imm(partial), n)
		JL(LabelRef("rest"))
		Label("cols")
		for i := range partial {
			one(i)
		}
		SUBQ(Imm(partial), n)
		JGE(LabelRef("cols"))
		Label("rest")
		ADDQ(Imm(partial), n)
		for i := range partial - 1 {
			JE(LabelRef("end"))
			one(i)
			DECQ(n)
		}
		Label("end")
		addParam("dstSkip", dst)
		addParam("srcSkip", g)
		if k.x {
			addParam("xSkip", x)
		}
		if k.r {
			addParam("rSkip", r)
		}
		DECQ(rows)
		JNE(LabelRef("row"))
		if k.sums {
			ptr := Load(Param("sums"), GP64())
			for i, s := range [][partial]vec{s1, s2} {
				VADDPS(s[1], s[0], s[0])
				VADDPS(s[3], s[2], s[2])
				VADDPS(s[2], s[0], s[0])
				m := Mem{Base: ptr, Disp: 32 * i}
				VADDPS(m, s[0], s[0])
				VMOVUPS(s[0], m)
			}
		}
		ret()
	}
}

// pool writes the 2×2 maximum of an activation and its gradient.
func pool() {
	for _, back := range []bool{false, true} {
		name, args := "pool", "dst *float32, dstSkip int"
		if back {
			name, args = "unpool", "dst *float32, dstRow, dstSkip int, grad *float32, gradSkip int"
		}
		TEXT(name+"AVX2", NOSPLIT, "func("+args+", src *float32, srcRow, srcSkip int, rows, cols int, params *float32)")
		Pragma("noescape")
		Doc(name + "AVX2 is Set." + name + "; strides are in bytes, a Skip leads from the end of a row (of a pair of rows) to the next.")
		dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
		srcRow := Load(Param("srcRow"), GP64())
		var g, dstRow reg.Register
		if back {
			g, dstRow = Load(Param("grad"), GP64()), Load(Param("dstRow"), GP64())
		}
		rows, n := Load(Param("rows"), GP64()), GP64()
		ptr := Load(Param("params"), GP64())
		scale, shift, zero := YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: ptr}, scale)
		VMOVUPS(Mem{Base: ptr, Disp: 32}, shift)
		VXORPS(zero, zero, zero)
		square := func(p, row reg.Register) []Mem {
			return []Mem{{Base: p}, {Base: p, Disp: 32}, {Base: p, Index: row, Scale: 1}, {Base: p, Index: row, Scale: 1, Disp: 32}}
		}
		Label("row")
		Load(Param("cols"), n)
		Label("cols")
		var y [4]vec
		m := YMM()
		for i, at := range square(src, srcRow) {
			y[i] = YMM()
			VMOVUPS(at, y[i])
			VFMADD132PS(scale, shift, y[i])
			VMAXPS(y[i], zero, y[i])
			if i == 0 {
				VMOVAPS(y[0], m)
			} else {
				VMAXPS(m, y[i], m)
			}
		}
		ADDQ(Imm(64), src)
		if !back {
			VMOVUPS(m, Mem{Base: dst})
			ADDQ(Imm(32), dst)
		} else {
			// The first of equal values takes the gradient.
			left := YMM()
			VMOVUPS(Mem{Base: g}, left)
			for i, at := range square(dst, dstRow) {
				VCMPPS(Imm(0), m, y[i], y[i]) // equal, ordered, quiet
				d := YMM()
				VANDPS(left, y[i], d)
				VMOVUPS(d, at)
				VANDNPS(left, y[i], left)
			}
			ADDQ(Imm(32), g)
			ADDQ(Imm(64), dst)
		}
		DECQ(n)
		JNE(LabelRef("cols"))
		addParam("dstSkip", dst)
		addParam("srcSkip", src)
		if back {
			addParam("gradSkip", g)
		}
		DECQ(rows)
		JNE(LabelRef("row"))
		ret()
	}
}

// transpose turns count 8×8 blocks and reverses their order.
func transpose() {
	TEXT("transpose8AVX2", NOSPLIT, "func(dst *float32, dstRow, dstBlock int, src *float32, srcRow, srcBlock int, count int)")
	Pragma("noescape")
	Doc("transpose8AVX2 is Set.Transpose8; strides are in bytes.")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	dr, sr := Load(Param("dstRow"), GP64()), Load(Param("srcRow"), GP64())
	db, sb := Load(Param("dstBlock"), GP64()), Load(Param("srcBlock"), GP64())
	n := Load(Param("count"), GP64())
	p := GP64()
	MOVQ(n, p)
	DECQ(p)
	IMULQ(db, p)
	ADDQ(p, dst)
	Label("block")
	v := make([]vec, 8)
	MOVQ(src, p)
	for i := range v {
		v[i] = YMM()
		VMOVUPS(Mem{Base: p}, v[i])
		if i < 7 {
			ADDQ(sr, p)
		}
	}
	step := func(f func(lo bool, a, b, d vec), pair func(i int) (int, int)) {
		w := make([]vec, 8)
		for i := range 4 {
			a, b := pair(i)
			w[2*i], w[2*i+1] = YMM(), YMM()
			f(true, v[a], v[b], w[2*i])
			f(false, v[a], v[b], w[2*i+1])
		}
		v = w
	}
	step(func(lo bool, a, b, d vec) {
		if lo {
			VUNPCKLPS(b, a, d)
		} else {
			VUNPCKHPS(b, a, d)
		}
	}, func(i int) (int, int) { return 2 * i, 2*i + 1 })
	// v: 01lo 01hi 23lo 23hi 45lo 45hi 67lo 67hi
	step(func(lo bool, a, b, d vec) {
		if lo {
			VSHUFPS(Imm(0x44), b, a, d)
		} else {
			VSHUFPS(Imm(0xee), b, a, d)
		}
	}, func(i int) (int, int) { return []int{0, 1, 4, 5}[i], []int{2, 3, 6, 7}[i] })
	// v: rows 0..3 as columns 0,1,2,3 (v0..v3), rows 4..7 (v4..v7)
	step(func(lo bool, a, b, d vec) {
		if lo {
			VPERM2F128(Imm(0x20), b, a, d)
		} else {
			VPERM2F128(Imm(0x31), b, a, d)
		}
	}, func(i int) (int, int) { return i, i + 4 })
	MOVQ(dst, p)
	for i, j := range []int{0, 2, 4, 6, 1, 3, 5, 7} {
		VMOVUPS(v[j], Mem{Base: p})
		if i < 7 {
			ADDQ(dr, p)
		}
	}
	SUBQ(db, dst)
	ADDQ(sb, src)
	DECQ(n)
	JNE(LabelRef("block"))
	ret()
}

// adam is one optimiser step over n vectors.
func adam() {
	TEXT("adamAVX2", NOSPLIT, "func(w, m, v, grad *float32, n int, k *float32)")
	Pragma("noescape")
	Doc("adamAVX2 is Set.Adam over n vectors of eight; k holds the eight constants.")
	w, m, v, g := Load(Param("w"), GP64()), Load(Param("m"), GP64()), Load(Param("v"), GP64()), Load(Param("grad"), GP64())
	n, kp := Load(Param("n"), GP64()), Load(Param("k"), GP64())
	k := make([]vec, 8)
	for i := range k {
		k[i] = YMM()
		VBROADCASTSS(Mem{Base: kp, Disp: 4 * i}, k[i])
	}
	Label("loop")
	gv, mv, vv, t := YMM(), YMM(), YMM(), YMM()
	VMULPS(Mem{Base: g}, k[0], gv)
	VMULPS(Mem{Base: m}, k[1], mv)
	VFMADD231PS(gv, k[2], mv)
	VMOVUPS(mv, Mem{Base: m})
	VMULPS(gv, gv, gv)
	VMULPS(Mem{Base: v}, k[3], vv)
	VFMADD231PS(gv, k[4], vv)
	VMOVUPS(vv, Mem{Base: v})
	VSQRTPS(vv, t)
	VFMADD213PS(k[6], k[5], t)
	VDIVPS(t, mv, t)
	VFMADD213PS(Mem{Base: w}, k[7], t)
	VMOVUPS(t, Mem{Base: w})
	for _, p := range []reg.Register{w, m, v, g} {
		ADDQ(Imm(32), p)
	}
	DECQ(n)
	JNE(LabelRef("loop"))
	ret()
}

// peak does nothing but fused multiply-adds; wide registers hold twice as many.
func peak(wide bool) {
	e, name, rounds := emit{wide}, "peakAVX2", 4
	if wide {
		name, rounds = "peakAVX512", 2
	}
	TEXT(name, NOSPLIT, "func(n int)")
	Pragma("noescape")
	Doc(name + " is Set.Peak.")
	n := Load(Param("n"), GP64())
	var acc [12]vec
	x := e.reg()
	VXORPS(x, x, x)
	for i := range acc {
		acc[i] = e.reg()
		VXORPS(acc[i], acc[i], acc[i])
	}
	Label("loop")
	for range rounds {
		for i := range acc {
			VFMADD231PS(x, x, acc[i])
		}
	}
	DECQ(n)
	JNE(LabelRef("loop"))
	ret()
}
