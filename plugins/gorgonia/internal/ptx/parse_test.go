package ptx

import (
	"errors"
	"strings"
	"testing"
)

// What is not executed exactly is refused, with its line.
func TestRefused(t *testing.T) {
	kernel := func(body string) string {
		return header + ".visible .entry k(.param .u64 p, .param .u32 n)\n{\n.reg .pred %p<3>; .reg .b16 %h<3>; .reg .b32 %r<5>; .reg .f32 %f<5>; .reg .f64 %d<5>; .reg .b64 %rd<5>;\n.shared .align 4 .b8 s[64];\n" + body + "\n}\n"
	}
	const at = 8 // the body's line
	for _, c := range []struct {
		text string
		line int
		says string
	}{
		{kernel("mul.f32 %f0, %f1, %f2;"), at, "contract"},
		{kernel("add.f64 %d0, %d1, %d2;"), at, "contract"},
		{kernel("ex2.approx.f32 %f0, %f1;"), at, "ISA does not say"},
		{kernel("rcp.approx.ftz.f64 %d0, %d1;"), at, "ISA does not say"},
		{kernel("div.full.f32 %f0, %f1, %f2;"), at, "ISA does not say"},
		{kernel("\n\nfrob.f32 %f0, %f1;"), at + 2, "frob.f32 %f0, %f1"},
		{kernel("add.rn.frob.f32 %f0, %f1, %f2;"), at, ".frob"},
		{kernel("atom.global.add.f32 %f0, [%rd0], %f1;"), at, "not executed"},
		{kernel("call foo;"), at, "not executed"},
		{kernel("add.rn.f32 %f0, %f1;"), at, "2 operands"},
		{kernel("add.rn.f32 %f0, %f1, %f9;"), at, "%f9"},
		{kernel("add.rn.f32 %f0, %f1, %d0;"), at, "64 bits"},
		{kernel("add.s32 %r0, %r1, %f0;"), at, "type f32"},
		{kernel("add.s32 %r0, %r1, 0x1ffffffff;"), at, "does not fit"},
		{kernel("add.s32 %r0, %r1, -2147483649;"), at, "does not fit"},
		{kernel("add.rn.f32 %f0, %f1, 1;"), at, "no constant of type f32"},
		{kernel("mov.u32 %r0, %frob;"), at, "%frob"},
		{kernel("setp.zz.s32 %p0, %r0, %r1;"), at, "not executed"},
		{kernel("@%r0 mov.u32 %r0, 1;"), at, "no predicate"},
		{kernel("bra $nowhere;"), at, "no label $nowhere"},
		{kernel("$a:\n$a:\nret;"), at + 1, "two labels"},
		{kernel("ld.global.v4.f64 {%d0, %d1, %d2, %d3}, [%rd0];"), at, "not executed"},
		{kernel("ld.global.v2.f32 %f0, [%rd0];"), at, "2 elements"},
		{kernel("ld.global.f32 %f0, [%r0];"), at, "no address"},
		{kernel("ld.param.u64 %rd0, [q];"), at, "no parameter q"},
		{kernel("ld.param.u64 %rd0, [p+8];"), at, "8 bytes"},
		{kernel("st.param.u64 [p], %rd0;"), at, "not executed"},
		{kernel("bar.sync 1;"), at, "barrier 0"},
		{kernel("bar.sync 0, 64;"), at, "2 operands"},
		{kernel("cvt.f32.f64 %f0, %d0;"), at, "not executed"},
		{kernel("cvt.rn.f64.f32 %d0, %f0;"), at, "not executed"},
		{kernel("cvt.s32.f32 %r0, %f0;"), at, "not executed"},
		{kernel(".local .align 4 .b8 depot[16];"), at, "local memory"},
		{kernel(".reg .b32 %r4;"), at, "two registers"},
		{kernel(".reg .b32 %q<99999999>;"), at, "number up to"},
		{kernel(".shared .b8 big[65536];"), at, "shared memory"},
		{kernel("mov.u32 %r0, 1"), at + 1, ";"},
		{kernel("/* no end"), at, "no end"},
		{header + ".global .f32 x;", 4, "global"},
		{header + ".func f() {}", 4, ".func"},
		{".version 7.8\n.target sm_60\n.address_size 32\n", 3, "32 bits"},
		{".address_size 64\n", 1, ".version"},
		{header + ".visible .entry k() { ret; }\n.visible .entry k() { ret; }", 5, "two kernels"},
		{header + ".visible .entry k()\n{\nret;", 6, "ends in the middle"},
	} {
		_, err := Load(c.text)
		var e *Error
		if !errors.As(err, &e) || e.Line != c.line || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s\n%v, not line %d, %q", strings.TrimPrefix(c.text, header), err, c.line, c.says)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(thread("add.rn.f32 %f0, %f1, 0f3F800000; @!%p0 bra $a; ld.shared.v4.f32 {%f0, %f1, %f2, %f3}, [%r1+16]; $a: bar.sync 0; ret;"))
	f.Add(header + ".const .align 4 .u32 t[2] = {1, 2};\n.extern .shared .align 16 .b8 d[];\n.visible .entry k(.param .align 8 .b8 q[16]) .maxntid 32, 1, 1 .minnctapersm 2 { .reg .b64 %r; ld.param.u64 %r, [q+8]; { .reg .b64 %r; mov.b64 %r, d; } }")
	f.Add(elementwise("shfl.sync.down.b32 %d|%p, %r0, 2, 0x181f, -1; setp.lt.and.s32 %p|_, %a, -7, !%q;", "u32", "s32"))
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Load(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, name := range m.Kernels() {
			// Whatever loads runs, to its end or to a fault.
			k := m.Kernel(name)
			err := NewMemory().Launch(k, Launch{Grid: Dim{1, 1, 1}, Threads: Dim{min(3, k.MaxThreads), 1, 1}, Params: make([]byte, k.ParamBytes()), Steps: 100})
			var f *Fault
			if err != nil && !errors.As(err, &f) && k.MaxThreads > 0 {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}
