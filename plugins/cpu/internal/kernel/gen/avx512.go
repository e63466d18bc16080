package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// conv512 is conv with a row of sixteen columns of c in one register and the
// elements of a as broadcast memory operands. Two multiply-adds a cycle with a
// latency of four need eight chains: blocks have 16 rows, and from eight rows on
// every block has at least eight. 16 rows, and not the 28 that there are registers
// for, since what a block does once per step of depth is then a fraction of the
// work already.
func conv512() {
	TEXT("conv16AVX512", NOSPLIT, convSignature)
	Pragma("noescape")
	Doc("conv16AVX512 is conv16AVX2.")
	e := emit{wide: true}
	c, a := Load(Param("c"), GP64()), Load(Param("a"), GP64())
	r1, r3, r5, r7 := Load(Param("ars"), GP64()), GP64(), GP64(), GP64()
	ads, bds := Load(Param("ads"), GP64()), Load(Param("bds"), GP64())
	rows := Load(Param("rows"), GP64())
	crs, _ := Param("crs").Resolve()
	flag, _ := Param("acc").Resolve()
	LEAQ(Mem{Base: r1, Index: r1, Scale: 2}, r3)
	LEAQ(Mem{Base: r1, Index: r1, Scale: 4}, r5)
	LEAQ(Mem{Base: r3, Index: r1, Scale: 4}, r7)

	const most = 16
	block := func(m int) {
		l := func(s string) string { return fmt.Sprintf("%s%d", s, m) }
		acc := make([]vec, m)
		for i := range acc {
			acc[i] = e.reg()
		}
		p := GP64()
		CMPQ(flag.Addr, Imm(0))
		JNE(LabelRef(l("load")))
		for _, v := range acc {
			VXORPS(v, v, v)
		}
		JMP(LabelRef(l("start")))
		Label(l("load"))
		MOVQ(c, p)
		for _, v := range acc {
			VMOVUPS(Mem{Base: p}, v)
			ADDQ(crs.Addr, p)
		}
		Label(l("start"))
		// Rows of a are in reach of one pointer per eight.
		ap := []reg.Register{GP64(), GP64()}[:(m+7)/8]
		MOVQ(a, ap[0])
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
		b, k, o := Load(Param("b"), GP64()), GP64(), Load(Param("outer"), GP64())
		Label(l("outer"))
		Load(Param("depth"), k)
		if m > 8 {
			LEAQ(Mem{Base: ap[0], Index: r1, Scale: 8}, ap[1])
		}
		Label(l("depth"))
		bv := e.reg()
		VMOVUPS(Mem{Base: b}, bv)
		for i, v := range acc {
			VFMADD231PS_BCST(row(i), bv, v)
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
		for _, v := range acc {
			VMOVUPS(v, Mem{Base: c})
			ADDQ(crs.Addr, c)
		}
		SUBQ(Imm(uint64(m)), rows)
		JE(LabelRef("done"))
		IMUL3Q(Imm(uint64(m)), r1, p)
		ADDQ(p, a)
		JMP(LabelRef("next"))
	}
	Label("next")
	CMPQ(rows, Imm(most+8))
	JGE(LabelRef(fmt.Sprint("rows", most)))
	CMPQ(rows, Imm(most))
	JG(LabelRef("rows8"))
	for m := most; m > 1; m-- {
		CMPQ(rows, Imm(uint64(m)))
		JE(LabelRef(fmt.Sprint("rows", m)))
	}
	for m := 1; m <= most; m++ {
		Label(fmt.Sprint("rows", m))
		block(m)
	}
	Label("done")
	ret()
}
