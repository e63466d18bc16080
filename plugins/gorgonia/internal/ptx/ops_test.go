package ptx

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/seed"
)

const header = ".version 7.8\n.target sm_60\n.address_size 64\n"

// elementwise is a kernel of n operands of 8 bytes each, of which it takes the types'
// low bits: %a, %b, … are the operands, %d the result, %p, %q predicates and %x, %y of 32
// bits and %X of 64 are free. It writes what is in %d after body.
func elementwise(body, result string, operands ...string) string {
	var b strings.Builder
	b.WriteString(header + ".visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1)\n{\n")
	b.WriteString("\t.reg .pred %p, %q;\n\t.reg .b32 %r<4>, %x, %y;\n\t.reg .b64 %rd<8>, %X;\n")
	holds := func(t string) string {
		if strings.HasSuffix(t, "8") {
			return "b32" // registers have 16 bits at least; loads extend
		}
		return t
	}
	fmt.Fprintf(&b, "\t.reg .%s %%d;\n", holds(result))
	for i, t := range operands {
		fmt.Fprintf(&b, "\t.reg .%s %%%c;\n", holds(t), 'a'+i)
	}
	b.WriteString("\tld.param.u64 %rd0, [k_param_0];\n\tld.param.u64 %rd1, [k_param_1];\n\tmov.u32 %r0, %tid.x;\n")
	b.WriteString("\tmul.wide.u32 %rd2, %r0, 8;\n\tadd.s64 %rd3, %rd0, %rd2;\n")
	fmt.Fprintf(&b, "\tmul.wide.u32 %%rd4, %%r0, %d;\n\tadd.s64 %%rd5, %%rd1, %%rd4;\n", 8*len(operands))
	for i, t := range operands {
		fmt.Fprintf(&b, "\tld.global.%s %%%c, [%%rd5+%d];\n", strings.Replace(t, "f16", "b16", 1), 'a'+i, 8*i)
	}
	b.WriteString("\tmov.u64 %rd6, 0;\n\tst.global.u64 [%rd3], %rd6;\n\t" + body + "\n")
	fmt.Fprintf(&b, "\tst.global.%s [%%rd3], %%d;\n\tret;\n}\n", strings.Replace(result, "f16", "b16", 1))
	return b.String()
}

// mustLoad is Load of what it takes.
func mustLoad(t testing.TB, text string) *Module {
	t.Helper()
	m, err := Load(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return m
}

// corners are the values that something may go wrong with.
func corners(t typ) []uint64 {
	if t.kind != 'f' {
		all := []uint64{0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100, 255, t.mask(), t.mask() - 1, t.mask() >> 1, t.mask()>>1 + 1, 0x12345678, 0x80000001, 0xff00ff00ff00}
		for i := range all {
			all[i] &= t.mask()
		}
		return all
	}
	values := []float64{0, math.Copysign(0, -1), 1, -1, 0.5, -2.5, 3, 1.5, 1e9, -3e9, 5e9, 1e20, -1e20, 0x1p-126, 0x1p-149, -0x1p-140, math.MaxFloat32,
		1 + 0x1p-23, 0.1, 65504, 65520, 1e-7, math.Inf(1), math.Inf(-1), math.NaN()}
	var all []uint64
	for _, v := range values {
		switch t.bits {
		case 16:
			all = append(all, half16(float32(v)))
		case 32:
			all = append(all, bits32(float32(v)))
		case 64:
			all = append(all, bits64(v))
		}
	}
	if t.bits == 64 {
		all = append(all, 1, 1<<63|5, bits64(math.MaxFloat64), bits64(0x1p-1022))
	}
	return all
}

// Every instruction against Go's own idea of it, which is written beside; those whose
// meaning is long-winded have tests of their own below.
func TestInstructions(t *testing.T) {
	s32 := func(x uint64) int32 { return int32(x) }
	b32 := func(x float32) uint64 { return bits32(x) }
	truth := func(p bool) uint64 {
		if p {
			return 1
		}
		return 0
	}
	// A predicate comes out as 1 or 0.
	const pred = " selp.u32 %d, 1, 0, %p;"
	type f = func(x []uint64) uint64
	for _, c := range []struct {
		body, result string
		operands     string
		want         f
	}{
		{"add.rn.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(f32(x[0]) + f32(x[1])) }},
		{"add.rn.ftz.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(flush(flush(f32(x[0])) + flush(f32(x[1])))) }},
		{"add.rn.sat.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 {
			s := f32(x[0]) + f32(x[1])
			if s != s || s < 0 {
				s = 0
			}
			return b32(max(0, min(s, 1)))
		}},
		{"sub.rn.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(f32(x[0]) - f32(x[1])) }},
		{"mul.rn.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(f32(x[0]) * f32(x[1])) }},
		{"div.rn.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(f32(x[0]) / f32(x[1])) }},
		{"rcp.rn.f32 %d, %a;", "f32", "f32", func(x []uint64) uint64 { return b32(1 / f32(x[0])) }},
		{"sqrt.rn.f32 %d, %a;", "f32", "f32", func(x []uint64) uint64 { return b32(float32(math.Sqrt(float64(f32(x[0]))))) }},
		{"fma.rn.f32 %d, %a, %b, 0f3F800000;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(fma32(f32(x[0]), f32(x[1]), 1)) }},
		{"add.rn.f64 %d, %a, %b;", "f64", "f64 f64", func(x []uint64) uint64 { return bits64(f64(x[0]) + f64(x[1])) }},
		{"sub.rn.f64 %d, %a, %b;", "f64", "f64 f64", func(x []uint64) uint64 { return bits64(f64(x[0]) - f64(x[1])) }},
		{"mul.rn.f64 %d, %a, %b;", "f64", "f64 f64", func(x []uint64) uint64 { return bits64(f64(x[0]) * f64(x[1])) }},
		{"div.rn.f64 %d, %a, %b;", "f64", "f64 f64", func(x []uint64) uint64 { return bits64(f64(x[0]) / f64(x[1])) }},
		{"rcp.rn.f64 %d, %a;", "f64", "f64", func(x []uint64) uint64 { return bits64(1 / f64(x[0])) }},
		{"sqrt.rn.f64 %d, %a;", "f64", "f64", func(x []uint64) uint64 { return bits64(math.Sqrt(f64(x[0]))) }},
		{"fma.rn.f64 %d, %a, %b, %c;", "f64", "f64 f64 f64", func(x []uint64) uint64 { return bits64(math.FMA(f64(x[0]), f64(x[1]), f64(x[2]))) }},
		{"abs.f32 %d, %a;", "f32", "f32", func(x []uint64) uint64 { return x[0] & 0x7fffffff }},
		{"neg.f32 %d, %a;", "f32", "f32", func(x []uint64) uint64 { return x[0] ^ 0x80000000 }},
		{"neg.f64 %d, %a;", "f64", "f64", func(x []uint64) uint64 { return x[0] ^ 1<<63 }},
		{"min.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 {
			a, b := f32(x[0]), f32(x[1])
			if a != a || b < a {
				return b32(b)
			}
			if a == b && x[1] != x[0] {
				return 0x80000000
			}
			return b32(a)
		}},
		{"max.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 {
			a, b := f32(x[0]), f32(x[1])
			if a != a || b > a {
				return b32(b)
			}
			if a == b && x[1] != x[0] {
				return 0
			}
			return b32(a)
		}},
		{"max.NaN.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 { return b32(max(f32(x[0]), f32(x[1]))) }},
		{"copysign.f32 %d, %a, %b;", "f32", "f32 f32", func(x []uint64) uint64 {
			return uint64(math.Float32bits(float32(math.Copysign(float64(f32(x[1]&0x7fffffff)), float64(f32(x[0]))))))&0x80000000 | x[1]&0x7fffffff
		}},

		{"add.s32 %d, %a, %b;", "s32", "s32 s32", func(x []uint64) uint64 { return uint64(uint32(x[0]) + uint32(x[1])) }},
		{"add.s32 %d, %a, -5;", "s32", "s32", func(x []uint64) uint64 { return uint64(uint32(x[0]) - 5) }},
		{"add.s64 %d, %a, %b;", "s64", "s64 s64", func(x []uint64) uint64 { return x[0] + x[1] }},
		{"add.u16 %d, %a, %b;", "u16", "u16 u16", func(x []uint64) uint64 { return uint64(uint16(x[0] + x[1])) }},
		{"sub.s32 %d, %a, %b;", "s32", "s32 s32", func(x []uint64) uint64 { return uint64(uint32(x[0]) - uint32(x[1])) }},
		{"mul.lo.s32 %d, %a, %b;", "s32", "s32 s32", func(x []uint64) uint64 { return uint64(uint32(x[0]) * uint32(x[1])) }},
		{"mul.hi.s32 %d, %a, %b;", "s32", "s32 s32", func(x []uint64) uint64 { return uint64(uint32(int64(s32(x[0])) * int64(s32(x[1])) >> 32)) }},
		{"mul.hi.u64 %d, %a, %b;", "u64", "u64 u64", func(x []uint64) uint64 { h, _ := bits.Mul64(x[0], x[1]); return h }},
		{"mul.wide.s32 %d, %a, %b;", "s64", "s32 s32", func(x []uint64) uint64 { return uint64(int64(s32(x[0])) * int64(s32(x[1]))) }},
		{"mul.wide.u32 %d, %a, %b;", "u64", "u32 u32", func(x []uint64) uint64 { return x[0] * x[1] }},
		{"mul.wide.s16 %d, %a, %b;", "s32", "s16 s16", func(x []uint64) uint64 { return uint64(uint32(int32(int16(x[0])) * int32(int16(x[1])))) }},
		{"mad.lo.s32 %d, %a, %b, %c;", "s32", "s32 s32 s32", func(x []uint64) uint64 { return uint64(uint32(x[0])*uint32(x[1]) + uint32(x[2])) }},
		{"mad.hi.u32 %d, %a, %b, %c;", "u32", "u32 u32 u32", func(x []uint64) uint64 { return uint64(uint32(x[0]*x[1]>>32 + x[2])) }},
		{"mad.wide.s32 %d, %a, %b, %c;", "s64", "s32 s32 s64", func(x []uint64) uint64 { return uint64(int64(s32(x[0]))*int64(s32(x[1])) + int64(x[2])) }},
		{"min.s32 %d, %a, %b;", "s32", "s32 s32", func(x []uint64) uint64 { return uint64(uint32(min(s32(x[0]), s32(x[1])))) }},
		{"max.s64 %d, %a, %b;", "s64", "s64 s64", func(x []uint64) uint64 { return uint64(max(int64(x[0]), int64(x[1]))) }},
		{"max.u32 %d, %a, %b;", "u32", "u32 u32", func(x []uint64) uint64 { return max(x[0], x[1]) }},
		{"abs.s32 %d, %a;", "s32", "s32", func(x []uint64) uint64 { return uint64(uint32(max(s32(x[0]), -s32(x[0])))) & 0xffffffff }},
		{"neg.s32 %d, %a;", "s32", "s32", func(x []uint64) uint64 { return uint64(-uint32(x[0])) }},
		{"not.b32 %d, %a;", "b32", "b32", func(x []uint64) uint64 { return uint64(^uint32(x[0])) }},
		{"cnot.b32 %d, %a;", "b32", "b32", func(x []uint64) uint64 { return truth(x[0] == 0) }},
		{"and.b64 %d, %a, -4294967296;", "b64", "b64", func(x []uint64) uint64 { return x[0] >> 32 << 32 }},
		{"or.b32 %d, %a, %b;", "b32", "b32 b32", func(x []uint64) uint64 { return x[0] | x[1] }},
		{"xor.b16 %d, %a, %b;", "b16", "b16 b16", func(x []uint64) uint64 { return x[0] ^ x[1] }},
		{"shl.b32 %d, %a, %b;", "b32", "b32 u32", func(x []uint64) uint64 { return uint64(uint32(x[0]) << x[1]) }},
		{"shl.b64 %d, %a, %b;", "b64", "b64 u32", func(x []uint64) uint64 { return x[0] << x[1] }},
		{"shr.u32 %d, %a, %b;", "u32", "u32 u32", func(x []uint64) uint64 { return uint64(uint32(x[0]) >> x[1]) }},
		{"shr.s32 %d, %a, %b;", "s32", "s32 u32", func(x []uint64) uint64 { return uint64(uint32(s32(x[0]) >> x[1])) }},
		{"shr.s64 %d, %a, %b;", "s64", "s64 u32", func(x []uint64) uint64 { return uint64(int64(x[0]) >> x[1]) }},
		{"popc.b64 %d, %a;", "u32", "b64", func(x []uint64) uint64 { return uint64(bits.OnesCount64(x[0])) }},
		{"clz.b32 %d, %a;", "u32", "b32", func(x []uint64) uint64 { return uint64(bits.LeadingZeros32(uint32(x[0]))) }},
		{"brev.b32 %d, %a;", "b32", "b32", func(x []uint64) uint64 { return uint64(bits.Reverse32(uint32(x[0]))) }},
		{"shf.l.wrap.b32 %d, %a, %b, %c;", "b32", "b32 b32 u32", func(x []uint64) uint64 {
			n := x[2] & 31
			return uint64(uint32(x[1])<<n | uint32(x[0]>>(32-n)))
		}},
		{"shf.r.clamp.b32 %d, %a, %b, %c;", "b32", "b32 b32 u32", func(x []uint64) uint64 {
			n := min(x[2], 32)
			return uint64(uint32(x[0]>>n) | uint32(x[1]<<(32-n)))
		}},
		{"lop3.b32 %d, %a, %b, %c, 150;", "b32", "b32 b32 b32", func(x []uint64) uint64 { return x[0] ^ x[1] ^ x[2] }},      // 0x96
		{"lop3.b32 %d, %a, %b, %c, 0xca;", "b32", "b32 b32 b32", func(x []uint64) uint64 { return x[0]&x[1] | ^x[0]&x[2] }}, // a ? b : c
		{"prmt.b32 %d, %a, %b, 0x7410;", "b32", "b32 b32", func(x []uint64) uint64 { return x[0]&0xffff | x[1]&0xff<<16 | x[1]>>24<<24 }},
		{"prmt.b32 %d, %a, %b, 0x88bb;", "b32", "b32 b32", func(x []uint64) uint64 { // signs of bytes 0 and 3
			return uint64(uint32(int32(int8(x[0]))>>7)&0xffff0000) | uint64(uint32(int32(x[0])>>31)&0xffff)
		}},
		{"bfe.u32 %d, %a, 5, 9;", "u32", "u32", func(x []uint64) uint64 { return x[0] >> 5 & 0x1ff }},
		{"bfe.s32 %d, %a, 5, 9;", "s32", "s32", func(x []uint64) uint64 { return uint64(uint32(int32(uint32(x[0])<<18) >> 23)) }},
		{"bfe.s32 %d, %a, 28, 9;", "s32", "s32", func(x []uint64) uint64 { return uint64(uint32(int32(x[0]) >> 28)) }},
		{"bfi.b32 %d, %a, %b, 4, 8;", "b32", "b32 b32", func(x []uint64) uint64 { return x[1]&^0xff0 | x[0]&0xff<<4 }},

		{"setp.eq.s32 %p, %a, %b;" + pred, "u32", "s32 s32", func(x []uint64) uint64 { return truth(x[0] == x[1]) }},
		{"setp.lt.s32 %p, %a, %b;" + pred, "u32", "s32 s32", func(x []uint64) uint64 { return truth(s32(x[0]) < s32(x[1])) }},
		{"setp.ge.u32 %p, %a, %b;" + pred, "u32", "u32 u32", func(x []uint64) uint64 { return truth(x[0] >= x[1]) }},
		{"setp.le.s64 %p, %a, %b;" + pred, "u32", "s64 s64", func(x []uint64) uint64 { return truth(int64(x[0]) <= int64(x[1])) }},
		{"setp.lt.f32 %p, %a, %b;" + pred, "u32", "f32 f32", func(x []uint64) uint64 { return truth(f32(x[0]) < f32(x[1])) }},
		{"setp.ltu.f32 %p, %a, %b;" + pred, "u32", "f32 f32", func(x []uint64) uint64 { return truth(!(f32(x[0]) >= f32(x[1]))) }},
		{"setp.leu.f32 %p, %a, %b;" + pred, "u32", "f32 f32", func(x []uint64) uint64 { return truth(!(f32(x[0]) > f32(x[1]))) }},
		{"setp.ne.f32 %p, %a, %b;" + pred, "u32", "f32 f32", func(x []uint64) uint64 { return truth(f32(x[0]) < f32(x[1]) || f32(x[0]) > f32(x[1])) }},
		{"setp.neu.f64 %p, %a, %b;" + pred, "u32", "f64 f64", func(x []uint64) uint64 { return truth(f64(x[0]) != f64(x[1])) }},
		{"setp.num.f32 %p, %a, %b;" + pred, "u32", "f32 f32", func(x []uint64) uint64 { return truth(f32(x[0]) == f32(x[0]) && f32(x[1]) == f32(x[1])) }},
		{"setp.nan.f64 %p, %a, %b;" + pred, "u32", "f64 f64", func(x []uint64) uint64 { return truth(f64(x[0]) != f64(x[0]) || f64(x[1]) != f64(x[1])) }},
		{"setp.gt.s32 %p|%q, %a, %b; selp.u32 %d, 1, 0, %q;", "u32", "s32 s32", func(x []uint64) uint64 { return truth(!(s32(x[0]) > s32(x[1]))) }},
		{"setp.gt.s32 %q, %a, 0; setp.lt.and.s32 %p, %a, %b, %q;" + pred, "u32", "s32 s32", func(x []uint64) uint64 { return truth(s32(x[0]) > 0 && s32(x[0]) < s32(x[1])) }},
		{"setp.gt.s32 %q, %a, 0; setp.lt.or.s32 %p, %a, %b, !%q;" + pred, "u32", "s32 s32", func(x []uint64) uint64 { return truth(s32(x[0]) <= 0 || s32(x[0]) < s32(x[1])) }},
		{"setp.gt.s32 %p, %a, 0; setp.gt.s32 %q, %b, 0; xor.pred %p, %p, %q; not.pred %p, %p;" + pred, "u32", "s32 s32", func(x []uint64) uint64 { return truth((s32(x[0]) > 0) == (s32(x[1]) > 0)) }},
		{"testp.subnormal.f32 %p, %a;" + pred, "u32", "f32", func(x []uint64) uint64 { return truth(x[0]&0x7f800000 == 0 && x[0]&0x7fffff != 0) }},
		{"mov.u32 %d, 7; setp.gt.s32 %p, %a, 5; @%p mov.u32 %d, 1; @!%p add.s32 %d, %d, %d;", "u32", "s32", func(x []uint64) uint64 {
			if s32(x[0]) > 5 {
				return 1
			}
			return 14
		}},

		{"cvt.f64.f32 %d, %a;", "f64", "f32", func(x []uint64) uint64 { return bits64(float64(f32(x[0]))) }},
		{"cvt.rn.f32.f64 %d, %a;", "f32", "f64", func(x []uint64) uint64 { return b32(float32(f64(x[0]))) }},
		{"cvt.rn.f16.f32 %d, %a;", "f16", "f32", func(x []uint64) uint64 { return half16(f32(x[0])) }},
		{"cvt.f32.f16 %d, %a;", "f32", "f16", func(x []uint64) uint64 { return b32(from16(x[0])) }},
		{"cvt.rni.f32.f32 %d, %a;", "f32", "f32", func(x []uint64) uint64 { return b32(float32(math.RoundToEven(float64(f32(x[0]))))) }},
		{"cvt.rmi.f64.f64 %d, %a;", "f64", "f64", func(x []uint64) uint64 { return bits64(math.Floor(f64(x[0]))) }},
		{"cvt.rn.f64.s32 %d, %a;", "f64", "s32", func(x []uint64) uint64 { return bits64(float64(s32(x[0]))) }},
		{"cvt.rn.f32.u32 %d, %a;", "f32", "u32", func(x []uint64) uint64 { return b32(float32(uint32(x[0]))) }},
		{"cvt.rn.f32.s64 %d, %a;", "f32", "s64", func(x []uint64) uint64 { return b32(float32(int64(x[0]))) }},
		{"cvt.s64.s32 %d, %a;", "s64", "s32", func(x []uint64) uint64 { return uint64(int64(s32(x[0]))) }},
		{"cvt.u64.u32 %d, %a;", "u64", "u32", func(x []uint64) uint64 { return x[0] }},
		{"cvt.u32.u64 %d, %a;", "u32", "u64", func(x []uint64) uint64 { return x[0] & 0xffffffff }},
		{"cvt.s32.s8 %d, %a;", "s32", "s32", func(x []uint64) uint64 { return uint64(uint32(int8(x[0]))) }},
		{"cvt.u32.u16 %d, %a;", "u32", "u16", func(x []uint64) uint64 { return x[0] }},
		{"cvt.sat.u8.s32 %x, %a; mov.u32 %d, %x;", "u32", "s32", func(x []uint64) uint64 { return uint64(max(0, min(s32(x[0]), 255))) }},
		{"cvt.sat.s16.s64 %x, %a; mov.u32 %d, %x;", "u32", "s64", func(x []uint64) uint64 { return uint64(uint32(max(-32768, min(int64(x[0]), 32767)))) }},
		{"mov.b64 {%x, %y}, %a; mov.b64 %d, {%y, %x};", "b64", "b64", func(x []uint64) uint64 { return x[0]>>32 | x[0]<<32 }},
		{"mov.b32 %x, %a; mov.b32 %d, %x;", "f32", "f32", func(x []uint64) uint64 { return x[0] }},
		{"{ .reg .u32 %x; mov.u32 %x, 3; add.u32 %d, %x, %a; }", "u32", "u32", func(x []uint64) uint64 { return uint64(uint32(x[0]) + 3) }},
		{"membar.gl; fence.acq_rel.gpu; mov.u32 %d, %a;", "u32", "u32", func(x []uint64) uint64 { return x[0] }},
	} {
		types := strings.Fields(c.operands)
		result, _ := typeOf(c.result)
		text := elementwise(c.body, c.result, types...)
		k := mustLoad(t, text).Kernel("k")
		// Corners with corners, and numbers at random.
		r := seed.Rand(t)
		var rows [][]uint64
		for i := range 700 {
			var row []uint64
			for j, name := range types {
				ty, _ := typeOf(name)
				edge := corners(ty)
				switch {
				case i < len(edge)*len(edge) && j == 0:
					row = append(row, edge[i%len(edge)])
				case i < len(edge)*len(edge) && j == 1:
					row = append(row, edge[i/len(edge)])
				case r.IntN(3) == 0:
					row = append(row, edge[r.IntN(len(edge))])
				default:
					row = append(row, r.Uint64()&ty.mask())
				}
			}
			rows = append(rows, row)
		}
		m := NewMemory()
		in, out := put(t, m, slices.Concat(rows...)), m.Alloc(8*len(rows))
		if err := m.Launch(k, Launch{Grid: Dim{1, 1, 1}, Threads: Dim{len(rows), 1, 1}, Params: pack(t, k, out, in)}); err != nil {
			t.Fatalf("%s: %v", c.body, err)
		}
		for i, got := range get[uint64](t, m, out, len(rows)) {
			if want := c.want(rows[i]) & result.mask(); got != want {
				t.Errorf("%s of %#x: %#x, want %#x", c.body, rows[i], got, want)
				break
			}
		}
	}
}

// Shuffles and votes of a warp, against their definition for all lanes.
func TestWarp(t *testing.T) {
	for _, c := range []struct {
		body string
		want func(l int) uint64
	}{
		{"shfl.sync.down.b32 %d, %r0, 3, 31, -1;", func(l int) uint64 {
			if l+3 < 32 {
				return uint64(l + 3)
			}
			return uint64(l)
		}},
		{"shfl.sync.up.b32 %d, %r0, 5, 0, -1;", func(l int) uint64 {
			if l >= 5 {
				return uint64(l - 5)
			}
			return uint64(l)
		}},
		{"shfl.sync.bfly.b32 %d, %r0, 16, 31, 0xffffffff;", func(l int) uint64 { return uint64(l ^ 16) }},
		{"shfl.sync.idx.b32 %d, %r0, 7, 31, -1;", func(int) uint64 { return 7 }},
		// Segments of 8 lanes.
		{"shfl.sync.down.b32 %d|%p, %r0, 2, 0x181f, -1; selp.u32 %x, 100, 0, %p; add.u32 %d, %d, %x;", func(l int) uint64 {
			if l%8 < 6 {
				return uint64(l + 102)
			}
			return uint64(l)
		}},
		{"setp.gt.u32 %p, %r0, 4; vote.sync.ballot.b32 %d, %p, -1;", func(int) uint64 { return 0xffffffe0 }},
		{"setp.gt.u32 %p, %r0, 4; vote.sync.any.pred %q, !%p, -1; selp.u32 %d, 1, 0, %q;", func(int) uint64 { return 1 }},
		{"setp.gt.u32 %p, %r0, 4; vote.sync.all.pred %q, %p, -1; selp.u32 %d, 1, 0, %q;", func(int) uint64 { return 0 }},
		{"activemask.b32 %d;", func(int) uint64 { return 0xffffffff }},
		// Lanes part and meet again.
		{`setp.lt.u32 %p, %r0, 9; mov.u32 %d, 1; @%p bra $then; add.u32 %d, %d, 10; bra.uni $end;
		$then: add.u32 %d, %d, 20;
		$end: activemask.b32 %x; popc.b32 %y, %x; add.u32 %d, %d, %y;`, func(l int) uint64 {
			if l < 9 {
				return 53
			}
			return 43
		}},
		// A loop of as many turns as the lane has number.
		{`mov.u32 %d, 0; mov.u32 %x, 0;
		$loop: setp.ge.u32 %p, %x, %r0; @%p bra $out; add.u32 %d, %d, %x; add.u32 %x, %x, 1; bra $loop;
		$out: vote.sync.ballot.b32 %y, %p, -1; not.b32 %y, %y; add.u32 %d, %d, %y;`, func(l int) uint64 { return uint64(l * (l - 1) / 2) }},
	} {
		k := mustLoad(t, elementwise(c.body, "u32")).Kernel("k")
		m := NewMemory()
		out := m.Alloc(8 * 32)
		if err := m.Launch(k, Launch{Grid: Dim{1, 1, 1}, Threads: Dim{32, 1, 1}, Params: pack(t, k, out, 0)}); err != nil {
			t.Fatalf("%s: %v", c.body, err)
		}
		for l, got := range get[uint64](t, m, out, 32) {
			if want := c.want(l); got != want {
				t.Errorf("%s, lane %d: %d, want %d", c.body, l, got, want)
			}
		}
	}
}

// Where threads and blocks are.
func TestPlaces(t *testing.T) {
	text := header + `.visible .entry k(.param .u64 out)
{
	.reg .b32 %r<20>; .reg .b64 %rd<5>;
	mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z;
	mov.u32 %r3, %ntid.x; mov.u32 %r4, %ntid.y; mov.u32 %r5, %ntid.z;
	mov.u32 %r6, %ctaid.x; mov.u32 %r7, %ctaid.y; mov.u32 %r8, %ctaid.z;
	mov.u32 %r9, %nctaid.x; mov.u32 %r10, %nctaid.y;
	mad.lo.u32 %r11, %r8, %r10, %r7; mad.lo.u32 %r11, %r11, %r9, %r6;
	mad.lo.u32 %r11, %r11, %r5, %r2; mad.lo.u32 %r11, %r11, %r4, %r1; mad.lo.u32 %r11, %r11, %r3, %r0;
	ld.param.u64 %rd0, [out]; mul.wide.u32 %rd1, %r11, 4; add.u64 %rd2, %rd0, %rd1;
	st.global.u32 [%rd2], %r11;
}`
	k := mustLoad(t, text).Kernel("k")
	m := NewMemory()
	grid, threads := Dim{3, 2, 2}, Dim{5, 3, 4}
	n := grid.count() * threads.count()
	out := m.Alloc(4 * n)
	if err := m.Launch(k, Launch{Grid: grid, Threads: threads, Params: pack(t, k, out)}); err != nil {
		t.Fatal(err)
	}
	for i, v := range get[uint32](t, m, out, n) { // every number once, or reading fails
		if v != uint32(i) {
			t.Fatalf("%d at %d", v, i)
		}
	}
}
