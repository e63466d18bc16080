package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel/series"
)

// quad is the arithmetic of package series on four float64.
type quad struct{}

func (quad) Const(k float64) vec { r := YMM(); VMOVUPD(double(k), r); return r }
func (quad) Add(a, b vec) vec    { r := YMM(); VADDPD(b, a, r); return r }
func (quad) Sub(a, b vec) vec    { r := YMM(); VSUBPD(b, a, r); return r }
func (quad) Mul(a, b vec) vec    { r := YMM(); VMULPD(b, a, r); return r }
func (quad) Div(a, b vec) vec    { r := YMM(); VDIVPD(b, a, r); return r }
func (quad) FMA(a, b, c vec) vec {
	r := YMM()
	VMOVAPD(c, r)
	VFMADD231PD(b, a, r)
	return r
}
func (quad) FMAConst(k float64, b, c vec) vec {
	r := YMM()
	VMOVAPD(c, r)
	VFMADD231PD(double(k), b, r)
	return r
}

// Clamp keeps NaN: of an unordered pair the instructions return the first
// operand in Go's order.
func (quad) Clamp(a vec, limit float64) vec {
	r := YMM()
	VMINPD(a, quad{}.Const(limit), r)
	VMAXPD(r, quad{}.Const(-limit), r)
	return r
}

func (quad) Scale(a, t vec) vec {
	r := YMM()
	VPSLLQ(Imm(52), t, r)
	VPADDQ(double(1), r, r)
	VMULPD(a, r, r)
	return r
}

// Flip changes the sign of a where the lowest bit of label is set.
func (quad) Flip(a, label vec) vec {
	r := YMM()
	VPSLLQ(Imm(63), label, r)
	VXORPD(a, r, r)
	return r
}

// loss writes Set.softmax2 and Set.loss2 over four pixels at a time.
func loss() {
	// difference loads the difference of the logits of four pixels.
	difference := func(z reg.Register) vec {
		a, b, s, t := XMM(), XMM(), XMM(), XMM()
		VMOVSD(Mem{Base: z}, a)
		VMOVHPS(Mem{Base: z, Disp: 32}, a, a)
		VMOVSD(Mem{Base: z, Disp: 64}, b)
		VMOVHPS(Mem{Base: z, Disp: 96}, b, b)
		VSHUFPS(Imm(0x88), b, a, s)
		VSHUFPS(Imm(0xdd), b, a, t)
		x, y := YMM(), YMM()
		VCVTPS2PD(s, x)
		VCVTPS2PD(t, y)
		VSUBPD(x, y, y)
		ADDQ(Imm(128), z)
		return y
	}

	TEXT("softmax2AVX2", NOSPLIT, "func(p0, p1 *float32, z *float32, quads int)")
	Pragma("noescape")
	Doc("softmax2AVX2 is Set.softmax2.")
	out := []reg.Register{Load(Param("p0"), GP64()), Load(Param("p1"), GP64())}
	z, n := Load(Param("z"), GP64()), Load(Param("quads"), GP64())
	Label("loop")
	p0, p1 := series.Softmax[vec](quad{}, difference(z))
	for i, p := range []vec{p0, p1} {
		x := XMM()
		VCVTPD2PSY(p, x)
		VMOVUPS(x, Mem{Base: out[i]})
		ADDQ(Imm(16), out[i])
	}
	DECQ(n)
	JNE(LabelRef("loop"))
	ret()

	for _, gradient := range []bool{false, true} {
		name, args := "loss2", "z *float32, labels *uint8, quads int, sums *float64"
		if gradient {
			name, args = "lossGradient2", "grad *float32, unit float64, "+args
		}
		TEXT(name+"AVX2", NOSPLIT, "func("+args+")")
		Pragma("noescape")
		Doc(name + "AVX2 is Set.loss2, without or with gradients.")
		z, labels, n := Load(Param("z"), GP64()), Load(Param("labels"), GP64()), Load(Param("quads"), GP64())
		sum := YMM()
		var g reg.Register
		var unit vec
		if gradient {
			g = Load(Param("grad"), GP64())
			m, _ := Param("unit").Resolve()
			unit = YMM()
			VBROADCASTSD(m.Addr, unit)
		}
		VXORPD(sum, sum, sum)
		Label("loop")
		d := difference(z)
		label := YMM()
		VPMOVZXBQ(Mem{Base: labels}, label)
		ADDQ(Imm(4), labels)
		l, half := series.Loss[vec](quad{}, d, label)
		VADDPD(l, sum, sum)
		if gradient {
			up, down := XMM(), XMM()
			VCVTPD2PSY(quad{}.Mul(half, unit), up)
			VXORPS(down, down, down)
			VSUBPS(up, down, down)
			for i, unpack := range []func(ops ...Op){VUNPCKLPS, VUNPCKHPS} {
				pair, one := XMM(), XMM()
				unpack(up, down, pair)
				VMOVQ(pair, one)
				VMOVUPS(one.AsY(), Mem{Base: g, Disp: 64 * i})
				VPSRLDQ(Imm(8), pair, one)
				VMOVUPS(one.AsY(), Mem{Base: g, Disp: 64*i + 32})
			}
			ADDQ(Imm(128), g)
		}
		DECQ(n)
		JNE(LabelRef("loop"))
		VMOVUPD(sum, Mem{Base: Load(Param("sums"), GP64())})
		ret()
	}
}
