package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// addParam adds an argument of the function to a register.
func addParam(name string, p reg.Register) {
	m, _ := Param(name).Resolve()
	ADDQ(m.Addr, p)
}

// conv writes Set.Conv8 and Set.Conv16 for AVX2, and Set.Conv16 for AVX-512: a row
// of c is n registers.
//
// Two multiply-adds a cycle with a latency of four need eight chains, better
// more. In AVX2, blocks of up to twelve rows, or six of two registers, leave
// room for b and a. In AVX-512 the elements of a are broadcast memory operands
// and blocks have 16 rows, not the 28 that there are registers for, since what a
// block does once per step of depth is then a fraction of the work already.
func conv(n int, wide bool) {
	e, most, columns, set := emit{wide}, 12/n, 8*n, "AVX2"
	if wide {
		most, columns, set = 16, 16*n, "AVX512"
	}
	name := fmt.Sprintf("conv%d%s", columns, set)
	TEXT(name, NOSPLIT, "func(c *float32, crs int, a *float32, ars, ads, askip int, b *float32, bds, bskip int, rows, depth, outer, acc int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s is Set.Conv%d; strides are in bytes, a skip leads from the end of one outer step", name, columns),
		"to the next, acc is 0 or 1.")
	c, a := Load(Param("c"), GP64()), Load(Param("a"), GP64())
	r1, r3, r5, r7 := Load(Param("ars"), GP64()), GP64(), GP64(), GP64()
	ads, bds := Load(Param("ads"), GP64()), Load(Param("bds"), GP64())
	rows := Load(Param("rows"), GP64())
	LEAQ(Mem{Base: r1, Index: r1, Scale: 2}, r3)
	LEAQ(Mem{Base: r1, Index: r1, Scale: 4}, r5)
	LEAQ(Mem{Base: r3, Index: r1, Scale: 4}, r7)

	block := func(m int) {
		l := func(s string) string { return fmt.Sprintf("%s%d", s, m) }
		acc := make([][]vec, m)
		for i := range acc {
			acc[i] = make([]vec, n)
			for j := range acc[i] {
				acc[i][j] = e.reg()
			}
		}
		eachRow := func(p reg.Register, f func(at Mem, v vec)) {
			for _, row := range acc {
				for j, v := range row {
					f(Mem{Base: p, Disp: 32 * j}, v)
				}
				addParam("crs", p)
			}
		}
		p := GP64()
		flag, _ := Param("acc").Resolve()
		CMPQ(flag.Addr, Imm(0))
		JNE(LabelRef(l("load")))
		for _, row := range acc {
			for _, v := range row {
				VXORPS(v, v, v)
			}
		}
		JMP(LabelRef(l("start")))
		Label(l("load"))
		MOVQ(c, p)
		eachRow(p, func(at Mem, v vec) { VMOVUPS(at, v) })
		Label(l("start"))
		// Rows of a are in reach of one pointer per eight.
		ap := []reg.Register{GP64(), GP64()}[:(m+7)/8]
		row := func(i int) Mem {
			m := Mem{Base: ap[i/8]}
			switch i % 8 {
			case 1, 2, 4:
				m.Index, m.Scale = r1, uint8(i%8)
			case 3, 6:
				m.Index, m.Scale = r3, uint8(i%8/3)
			case 5:
				m.Index, m.Scale = r5, 1
			case 7:
				m.Index, m.Scale = r7, 1
			}
			return m
		}
		MOVQ(a, ap[0])
		b, k, o := Load(Param("b"), GP64()), GP64(), Load(Param("outer"), GP64())
		Label(l("outer"))
		Load(Param("depth"), k)
		if m > 8 {
			LEAQ(Mem{Base: ap[0], Index: r1, Scale: 8}, ap[1])
		}
		Label(l("depth"))
		bv := make([]vec, n)
		for j := range bv {
			bv[j] = e.reg()
			VMOVUPS(Mem{Base: b, Disp: 32 * j}, bv[j])
		}
		for i := range acc {
			if wide {
				VFMADD231PS_BCST(row(i), bv[0], acc[i][0])
				continue
			}
			x := YMM()
			VBROADCASTSS(row(i), x)
			for j := range bv {
				VFMADD231PS(bv[j], x, acc[i][j])
			}
		}
		for _, p := range ap {
			ADDQ(ads, p)
		}
		ADDQ(bds, b)
		DECQ(k)
		JNE(LabelRef(l("depth")))
		addParam("askip", ap[0])
		addParam("bskip", b)
		DECQ(o)
		JNE(LabelRef(l("outer")))
		eachRow(c, func(at Mem, v vec) { VMOVUPS(v, at) })
		SUBQ(Imm(uint64(m)), rows)
		JE(LabelRef("done"))
		IMUL3Q(Imm(uint64(m)), r1, p)
		ADDQ(p, a)
		JMP(LabelRef("next"))
	}
	// Up to twice the most rows are halved: a few rows alone would leave the
	// multipliers idle.
	Label("next")
	t := GP64()
	CMPQ(rows, Imm(uint64(2*most)))
	JAE(LabelRef(fmt.Sprintf("rows%d", most)))
	MOVQ(rows, t)
	CMPQ(rows, Imm(uint64(most)))
	JBE(LabelRef("pick"))
	INCQ(t)
	SHRQ(Imm(1), t)
	Label("pick")
	for m := most; m > 1; m-- {
		CMPQ(t, Imm(uint64(m)))
		JE(LabelRef(fmt.Sprintf("rows%d", m)))
	}
	for m := range most {
		Label(fmt.Sprintf("rows%d", m+1))
		block(m + 1)
	}
	Label("done")
	ret()
}
