package kernel

import "golang.org/x/sys/cpu"

// native is nil where the processor lacks AVX2.
var native = func() *Set {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return &avx2
}()

// The functions here check lengths before assembly trusts them.

var avx2 = Set{
	Name: "avx2",
	Stages: [6]func(dst, src Planes, m, w int, tw []float32){
		2: stage(2, butterfly2AVX2), 3: stage(3, butterfly3AVX2), 4: stage(4, butterfly4AVX2), 5: stage(5, butterfly5AVX2),
	},
	Multiply:    multiply(multiplyAVX2, true),
	MultiplyAdd: multiply(multiplyAddAVX2, true),
	Scale:       multiply(scaleAVX2, false),
	ScaleAdd:    multiply(scaleAddAVX2, false),
	Transpose: func(dst, src []float32) {
		_, _ = dst[Lanes*Lanes-1], src[Lanes*Lanes-1]
		transposeAVX2(&dst[0], &src[0])
	},
	Transmit: func(psi Planes, phase []float32) {
		if n := len(phase); n > 0 {
			whole(n)
			_, _ = psi.Re[n-1], psi.Im[n-1]
			transmitAVX2(&psi.Re[0], &psi.Im[0], &phase[0], n/8)
		}
	},
	Rotate: func(dst, x, rows, column Planes) {
		if n := len(rows.Re); n > 0 {
			last := n*Lanes - 1
			_, _, _, _ = dst.Re[last], dst.Im[last], x.Re[last], x.Im[last]
			_, _, _ = rows.Im[n-1], column.Re[Lanes-1], column.Im[Lanes-1]
			rotateAVX2(&dst.Re[0], &dst.Im[0], &x.Re[0], &x.Im[0], &rows.Re[0], &rows.Im[0], &column.Re[0], &column.Im[0], n)
		}
	},
	AddNorm: func(sum []float32, psi Planes) {
		if n := len(sum); n > 0 {
			whole(n)
			_, _ = psi.Re[n-1], psi.Im[n-1]
			addNormAVX2(&sum[0], &psi.Re[0], &psi.Im[0], n/8)
		}
	},
}

func stage(radix int, f func(yr, yi, xr, xi *float32, m, w int, tw *float32)) func(dst, src Planes, m, w int, tw []float32) {
	return func(dst, src Planes, m, w int, tw []float32) {
		if m <= 0 || w <= 0 {
			return
		}
		whole(w)
		last := m*radix*w - 1
		_, _, _, _, _ = dst.Re[last], dst.Im[last], src.Re[last], src.Im[last], tw[m*2*(radix-1)-1]
		f(&dst.Re[0], &dst.Im[0], &src.Re[0], &src.Im[0], m, 4*w, &tw[0])
	}
}

func multiply(f func(dr, di, xr, xi, hr, hi *float32, n int), complexH bool) func(dst, x, h Planes) {
	return func(dst, x, h Planes) {
		n := len(dst.Re)
		if n == 0 {
			return
		}
		whole(n)
		_, _, _, _ = dst.Im[n-1], x.Re[n-1], x.Im[n-1], h.Re[n-1]
		var hi *float32
		if complexH {
			_, hi = h.Im[n-1], &h.Im[0]
		}
		f(&dst.Re[0], &dst.Im[0], &x.Re[0], &x.Im[0], &h.Re[0], hi, n/8)
	}
}

// whole panics if n is not a multiple of Lanes.
func whole(n int) {
	if n%Lanes != 0 {
		panic("kernel: length is not a multiple of 16")
	}
}
