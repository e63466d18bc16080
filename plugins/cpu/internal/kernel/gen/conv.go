package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const convSignature = "func(c *float32, crs int, a *float32, ars, ads, askip int, b *float32, bds, bskip int, rows, depth, outer, acc int)"

// addParam adds an argument of the function to a register.
func addParam(name string, p reg.Register) {
	m, _ := Param(name).Resolve()
	ADDQ(m.Addr, p)
}

// conv writes Set.Conv8 (n = 1) and Set.Conv16 (n = 2). Blocks of up to twelve
// rows, or six of two registers, keep enough chains of multiply-adds to hide
// their latency, two a cycle.
func conv(n int) {
	most := 12 / n
	TEXT(fmt.Sprintf("conv%dAVX2", 8*n), NOSPLIT, convSignature)
	Pragma("noescape")
	Doc(fmt.Sprintf("conv%dAVX2 is Set.Conv%d; strides are in bytes, a skip leads from the end of one outer step", 8*n, 8*n),
		"to the next, acc is 0 or 1.")
	c, a := Load(Param("c"), GP64()), Load(Param("a"), GP64())
	r1 := Load(Param("ars"), GP64())
	ads, bds := Load(Param("ads"), GP64()), Load(Param("bds"), GP64())
	rows := Load(Param("rows"), GP64())
	r3, r5 := GP64(), GP64()
	LEAQ(Mem{Base: r1, Index: r1, Scale: 2}, r3)
	LEAQ(Mem{Base: r1, Index: r1, Scale: 4}, r5)

	block := func(m int) {
		l := func(s string) string { return fmt.Sprintf("%s%d", s, m) }
		acc := make([][]vec, m)
		for i := range acc {
			acc[i] = make([]vec, n)
			for j := range acc[i] {
				acc[i][j] = YMM()
			}
		}
		eachRow := func(f func(i, j int, at Mem)) {
			cp, crs := GP64(), Load(Param("crs"), GP64())
			MOVQ(c, cp)
			for i := range acc {
				for j := range acc[i] {
					f(i, j, Mem{Base: cp, Disp: 32 * j})
				}
				if i < m-1 {
					ADDQ(crs, cp)
				}
			}
		}
		flag, _ := Param("acc").Resolve()
		CMPQ(flag.Addr, Imm(0))
		JNE(LabelRef(l("load")))
		for i := range acc {
			for j := range acc[i] {
				VXORPS(acc[i][j], acc[i][j], acc[i][j])
			}
		}
		JMP(LabelRef(l("start")))
		Label(l("load"))
		eachRow(func(i, j int, at Mem) { VMOVUPS(at, acc[i][j]) })
		Label(l("start"))
		ap, aq, b, k, o := GP64(), GP64(), GP64(), GP64(), GP64()
		MOVQ(a, ap)
		Load(Param("b"), b)
		Load(Param("outer"), o)
		row := func(i int) Mem {
			p := ap
			if i >= 6 {
				p = aq
			}
			return []Mem{{Base: p}, {Base: p, Index: r1, Scale: 1}, {Base: p, Index: r1, Scale: 2},
				{Base: p, Index: r3, Scale: 1}, {Base: p, Index: r1, Scale: 4}, {Base: p, Index: r5, Scale: 1}}[i%6]
		}
		Label(l("outer"))
		Load(Param("depth"), k)
		if m > 6 {
			LEAQ(Mem{Base: ap, Index: r3, Scale: 2}, aq)
		}
		Label(l("depth"))
		bv := make([]vec, n)
		for j := range bv {
			bv[j] = YMM()
			VMOVUPS(Mem{Base: b, Disp: 32 * j}, bv[j])
		}
		for i := range acc {
			x := YMM()
			VBROADCASTSS(row(i), x)
			for j := range bv {
				VFMADD231PS(bv[j], x, acc[i][j])
			}
		}
		ADDQ(ads, ap)
		if m > 6 {
			ADDQ(ads, aq)
		}
		ADDQ(bds, b)
		DECQ(k)
		JNE(LabelRef(l("depth")))
		addParam("askip", ap)
		addParam("bskip", b)
		DECQ(o)
		JNE(LabelRef(l("outer")))
		eachRow(func(i, j int, at Mem) { VMOVUPS(acc[i][j], at) })
		SUBQ(Imm(uint64(m)), rows)
		JE(LabelRef("done"))
		t := GP64()
		IMUL3Q(Imm(uint64(m)), r1, t)
		ADDQ(t, a)
		Load(Param("crs"), t)
		IMUL3Q(Imm(uint64(m)), t, t)
		ADDQ(t, c)
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
