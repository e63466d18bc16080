//go:build amd64 && !noasm

#include "textflag.h"

// func tile4x16(k int, a, b, c *float32, add int)
//
// Y0..Y7 hold the 4×16 tile, two registers a row; every step k loads a row of b
// and multiplies it with four broadcast values of a. Eight independent chains
// cover the latency of two fused multiply-adds per cycle.
TEXT ·tile4x16(SB), NOSPLIT, $0-40
	MOVQ k+0(FP), CX
	MOVQ a+8(FP), SI
	MOVQ b+16(FP), DX
	MOVQ c+24(FP), DI
	MOVQ add+32(FP), AX
	TESTQ AX, AX
	JZ   zero
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3
	VMOVUPS 128(DI), Y4
	VMOVUPS 160(DI), Y5
	VMOVUPS 192(DI), Y6
	VMOVUPS 224(DI), Y7
	JMP  loop

zero:
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7

loop:
	VMOVUPS      (DX), Y8
	VMOVUPS      32(DX), Y9
	VBROADCASTSS (SI), Y10
	VBROADCASTSS 4(SI), Y11
	VBROADCASTSS 8(SI), Y12
	VBROADCASTSS 12(SI), Y13
	VFMADD231PS  Y8, Y10, Y0
	VFMADD231PS  Y9, Y10, Y1
	VFMADD231PS  Y8, Y11, Y2
	VFMADD231PS  Y9, Y11, Y3
	VFMADD231PS  Y8, Y12, Y4
	VFMADD231PS  Y9, Y12, Y5
	VFMADD231PS  Y8, Y13, Y6
	VFMADD231PS  Y9, Y13, Y7
	ADDQ         $16, SI
	ADDQ         $64, DX
	DECQ         CX
	JNZ          loop

	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VMOVUPS Y4, 128(DI)
	VMOVUPS Y5, 160(DI)
	VMOVUPS Y6, 192(DI)
	VMOVUPS Y7, 224(DI)
	VZEROUPPER
	RET

// func dot4x3(p *dotArgs)
//
// Y(3i+j) accumulates eight partial sums of a[i]·b[j]; at the end each is
// reduced to one sum. dotArgs: a at 0, b at 32, strideA 56, strideB 64,
// outer 72, inner 80, sum at 88.
TEXT ·dot4x3(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), R15
	MOVQ 0(R15), AX
	MOVQ 8(R15), BX
	MOVQ 16(R15), CX
	MOVQ 24(R15), DX
	MOVQ 32(R15), SI
	MOVQ 40(R15), DI
	MOVQ 48(R15), R8
	MOVQ 56(R15), R12
	MOVQ 64(R15), R13
	MOVQ 72(R15), R11
	MOVQ 80(R15), R10
	SHLQ $2, R10
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	VXORPS Y8, Y8, Y8
	VXORPS Y9, Y9, Y9
	VXORPS Y10, Y10, Y10
	VXORPS Y11, Y11, Y11

segment:
	XORQ R9, R9

eight:
	VMOVUPS     (SI)(R9*1), Y12
	VMOVUPS     (DI)(R9*1), Y13
	VMOVUPS     (R8)(R9*1), Y14
	VMOVUPS     (AX)(R9*1), Y15
	VFMADD231PS Y12, Y15, Y0
	VFMADD231PS Y13, Y15, Y1
	VFMADD231PS Y14, Y15, Y2
	VMOVUPS     (BX)(R9*1), Y15
	VFMADD231PS Y12, Y15, Y3
	VFMADD231PS Y13, Y15, Y4
	VFMADD231PS Y14, Y15, Y5
	VMOVUPS     (CX)(R9*1), Y15
	VFMADD231PS Y12, Y15, Y6
	VFMADD231PS Y13, Y15, Y7
	VFMADD231PS Y14, Y15, Y8
	VMOVUPS     (DX)(R9*1), Y15
	VFMADD231PS Y12, Y15, Y9
	VFMADD231PS Y13, Y15, Y10
	VFMADD231PS Y14, Y15, Y11
	ADDQ        $32, R9
	CMPQ        R9, R10
	JLT         eight

	ADDQ R12, AX
	ADDQ R12, BX
	ADDQ R12, CX
	ADDQ R12, DX
	ADDQ R13, SI
	ADDQ R13, DI
	ADDQ R13, R8
	DECQ R11
	JNZ  segment

	VHADDPS      Y1, Y0, Y0
	VHADDPS      Y3, Y2, Y2
	VHADDPS      Y2, Y0, Y0
	VEXTRACTF128 $1, Y0, X1
	VADDPS       X1, X0, X0
	VMOVUPS      X0, 88(R15)
	VHADDPS      Y5, Y4, Y4
	VHADDPS      Y7, Y6, Y6
	VHADDPS      Y6, Y4, Y4
	VEXTRACTF128 $1, Y4, X1
	VADDPS       X1, X4, X4
	VMOVUPS      X4, 104(R15)
	VHADDPS      Y9, Y8, Y8
	VHADDPS      Y11, Y10, Y10
	VHADDPS      Y10, Y8, Y8
	VEXTRACTF128 $1, Y8, X1
	VADDPS       X1, X8, X8
	VMOVUPS      X8, 120(R15)
	VZEROUPPER
	RET

// func sumLanes(s *[32]float32, x *float32, n int)
TEXT ·sumLanes(SB), NOSPLIT, $0-24
	MOVQ    s+0(FP), DI
	MOVQ    x+8(FP), SI
	MOVQ    n+16(FP), CX
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VMOVUPS 64(DI), Y2
	VMOVUPS 96(DI), Y3

sums:
	VADDPS (SI), Y0, Y0
	VADDPS 32(SI), Y1, Y1
	VADDPS 64(SI), Y2, Y2
	VADDPS 96(SI), Y3, Y3
	ADDQ   $128, SI
	DECQ   CX
	JNZ    sums

	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VZEROUPPER
	RET

// func squareLanes(s *[32]float32, x *float32, n int, m float32)
TEXT ·squareLanes(SB), NOSPLIT, $0-28
	MOVQ         s+0(FP), DI
	MOVQ         x+8(FP), SI
	MOVQ         n+16(FP), CX
	VBROADCASTSS m+24(FP), Y8
	VMOVUPS      (DI), Y0
	VMOVUPS      32(DI), Y1
	VMOVUPS      64(DI), Y2
	VMOVUPS      96(DI), Y3

squares:
	VMOVUPS     (SI), Y4
	VMOVUPS     32(SI), Y5
	VMOVUPS     64(SI), Y6
	VMOVUPS     96(SI), Y7
	VSUBPS      Y8, Y4, Y4
	VSUBPS      Y8, Y5, Y5
	VSUBPS      Y8, Y6, Y6
	VSUBPS      Y8, Y7, Y7
	VFMADD231PS Y4, Y4, Y0
	VFMADD231PS Y5, Y5, Y1
	VFMADD231PS Y6, Y6, Y2
	VFMADD231PS Y7, Y7, Y3
	ADDQ        $128, SI
	DECQ        CX
	JNZ         squares

	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VZEROUPPER
	RET

// func productLanes(s *[2][32]float32, x, y, dy *float32, n int, m float32, r int)
//
// Y15 is all ones where nothing is masked: y > 0 is or-ed with it.
TEXT ·productLanes(SB), NOSPLIT, $0-56
	MOVQ         s+0(FP), DI
	MOVQ         x+8(FP), SI
	MOVQ         y+16(FP), DX
	MOVQ         dy+24(FP), BX
	MOVQ         n+32(FP), CX
	VBROADCASTSS m+40(FP), Y13
	MOVQ         r+48(FP), AX
	DECQ         AX                // 0 or all ones
	VMOVQ        AX, X15
	VPBROADCASTQ X15, Y15
	VXORPS       Y14, Y14, Y14
	VMOVUPS      (DI), Y0
	VMOVUPS      32(DI), Y1
	VMOVUPS      64(DI), Y2
	VMOVUPS      96(DI), Y3
	VMOVUPS      128(DI), Y4
	VMOVUPS      160(DI), Y5
	VMOVUPS      192(DI), Y6
	VMOVUPS      224(DI), Y7

products:
	VMOVUPS     (DX), Y8
	VCMPPS      $0x1e, Y14, Y8, Y8 // y > 0
	VORPS       Y15, Y8, Y8
	VANDPS      (BX), Y8, Y8
	VMOVUPS     (SI), Y9
	VSUBPS      Y13, Y9, Y9
	VFMADD231PS Y9, Y8, Y0
	VADDPS      Y8, Y4, Y4
	VMOVUPS     32(DX), Y10
	VCMPPS      $0x1e, Y14, Y10, Y10
	VORPS       Y15, Y10, Y10
	VANDPS      32(BX), Y10, Y10
	VMOVUPS     32(SI), Y11
	VSUBPS      Y13, Y11, Y11
	VFMADD231PS Y11, Y10, Y1
	VADDPS      Y10, Y5, Y5
	VMOVUPS     64(DX), Y8
	VCMPPS      $0x1e, Y14, Y8, Y8
	VORPS       Y15, Y8, Y8
	VANDPS      64(BX), Y8, Y8
	VMOVUPS     64(SI), Y9
	VSUBPS      Y13, Y9, Y9
	VFMADD231PS Y9, Y8, Y2
	VADDPS      Y8, Y6, Y6
	VMOVUPS     96(DX), Y10
	VCMPPS      $0x1e, Y14, Y10, Y10
	VORPS       Y15, Y10, Y10
	VANDPS      96(BX), Y10, Y10
	VMOVUPS     96(SI), Y11
	VSUBPS      Y13, Y11, Y11
	VFMADD231PS Y11, Y10, Y3
	VADDPS      Y10, Y7, Y7
	ADDQ        $128, SI
	ADDQ        $128, DX
	ADDQ        $128, BX
	DECQ        CX
	JNZ         products

	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	VMOVUPS Y2, 64(DI)
	VMOVUPS Y3, 96(DI)
	VMOVUPS Y4, 128(DI)
	VMOVUPS Y5, 160(DI)
	VMOVUPS Y6, 192(DI)
	VMOVUPS Y7, 224(DI)
	VZEROUPPER
	RET

// func affineLanes(y, x *float32, n int, k, t float32, r int)
TEXT ·affineLanes(SB), NOSPLIT, $0-40
	MOVQ         y+0(FP), DI
	MOVQ         x+8(FP), SI
	MOVQ         n+16(FP), CX
	VBROADCASTSS k+24(FP), Y1
	VBROADCASTSS t+28(FP), Y2
	MOVQ         r+32(FP), AX
	DECQ         AX
	VMOVQ        AX, X3
	VPBROADCASTQ X3, Y3
	VXORPS       Y4, Y4, Y4

affine:
	VMULPS  (SI), Y1, Y0
	VADDPS  Y2, Y0, Y0
	VCMPPS  $6, Y4, Y0, Y5 // not ≤ 0: positive or NaN
	VORPS   Y3, Y5, Y5
	VANDPS  Y5, Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DI
	DECQ    CX
	JNZ     affine

	VZEROUPPER
	RET

// func combineLanes(dx, x, y, dy *float32, n int, k, p, q float32, r int)
TEXT ·combineLanes(SB), NOSPLIT, $0-64
	MOVQ         dx+0(FP), DI
	MOVQ         x+8(FP), SI
	MOVQ         y+16(FP), DX
	MOVQ         dy+24(FP), BX
	MOVQ         n+32(FP), CX
	VBROADCASTSS k+40(FP), Y1
	VBROADCASTSS p+44(FP), Y2
	VBROADCASTSS q+48(FP), Y3
	MOVQ         r+56(FP), AX
	DECQ         AX
	VMOVQ        AX, X4
	VPBROADCASTQ X4, Y4
	VXORPS       Y5, Y5, Y5

combine:
	VMOVUPS (DX), Y0
	VCMPPS  $0x1e, Y5, Y0, Y0
	VORPS   Y4, Y0, Y0
	VANDPS  (BX), Y0, Y0
	VMULPS  Y0, Y1, Y0
	VMULPS  (SI), Y2, Y6
	VADDPS  Y6, Y0, Y0
	VADDPS  Y3, Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ    $32, SI
	ADDQ    $32, DX
	ADDQ    $32, BX
	ADDQ    $32, DI
	DECQ    CX
	JNZ     combine

	VZEROUPPER
	RET
