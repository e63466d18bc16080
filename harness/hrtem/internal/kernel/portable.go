package kernel

import "math"

// The functions here define the arithmetic. Every product is rounded by an explicit
// conversion before it enters a sum, so that no compiler fuses the two.

var portable = Set{
	Name: "portable",
	Stages: [6]func(dst, src Planes, m, w int, tw []float32){
		2: runs(2, butterfly2), 3: runs(3, butterfly3), 4: runs(4, butterfly4), 5: runs(5, butterfly5),
	},
	Multiply:    func(dst, x, h Planes) { product(dst, x, h, false) },
	MultiplyAdd: func(dst, x, h Planes) { product(dst, x, h, true) },
	Scale:       func(dst, x, h Planes) { scale(dst, x, h, false) },
	ScaleAdd:    func(dst, x, h Planes) { scale(dst, x, h, true) },
	Transpose:   transpose,
	Transmit:    transmit,
	Rotate:      rotate,
	AddNorm:     addNorm,
}

// runs applies a butterfly to every run of a stage. The butterfly's inputs are step
// apart, its outputs w.
func runs(radix int, butterfly func(yr, yi, xr, xi []float32, w, step int, tw []float32)) func(dst, src Planes, m, w int, tw []float32) {
	return func(dst, src Planes, m, w int, tw []float32) {
		for p := range m {
			x, y, t := p*w, p*radix*w, p*2*(radix-1)
			butterfly(dst.Re[y:], dst.Im[y:], src.Re[x:], src.Im[x:], w, m*w, tw[t:t+2*(radix-1)])
		}
	}
}

func butterfly2(yr, yi, xr, xi []float32, w, step int, tw []float32) {
	t1r, t1i := tw[0], tw[1]
	ar, ai := xr[:w], xi[:w]
	br, bi := xr[step:step+w], xi[step:step+w]
	y0r, y0i := yr[:w], yi[:w]
	y1r, y1i := yr[w:w+w], yi[w:w+w]
	for i := range ar {
		dr, di := ar[i]-br[i], ai[i]-bi[i]
		y0r[i], y0i[i] = ar[i]+br[i], ai[i]+bi[i]
		y1r[i] = float32(dr*t1r) - float32(di*t1i)
		y1i[i] = float32(dr*t1i) + float32(di*t1r)
	}
}

func butterfly3(yr, yi, xr, xi []float32, w, step int, tw []float32) {
	const sin60 = 0.86602540378443864676
	t1r, t1i, t2r, t2i := tw[0], tw[1], tw[2], tw[3]
	ar, ai := xr[:w], xi[:w]
	br, bi := xr[step:step+w], xi[step:step+w]
	cr, ci := xr[2*step:2*step+w], xi[2*step:2*step+w]
	y0r, y0i := yr[:w], yi[:w]
	y1r, y1i := yr[w:w+w], yi[w:w+w]
	y2r, y2i := yr[2*w:2*w+w], yi[2*w:2*w+w]
	for i := range ar {
		sr, si := br[i]+cr[i], bi[i]+ci[i]
		dr, di := float32((br[i]-cr[i])*sin60), float32((bi[i]-ci[i])*sin60)
		hr, hi := ar[i]-float32(sr*0.5), ai[i]-float32(si*0.5)
		y0r[i], y0i[i] = ar[i]+sr, ai[i]+si
		ur, ui := hr+di, hi-dr
		vr, vi := hr-di, hi+dr
		y1r[i] = float32(ur*t1r) - float32(ui*t1i)
		y1i[i] = float32(ur*t1i) + float32(ui*t1r)
		y2r[i] = float32(vr*t2r) - float32(vi*t2i)
		y2i[i] = float32(vr*t2i) + float32(vi*t2r)
	}
}

func butterfly4(yr, yi, xr, xi []float32, w, step int, tw []float32) {
	t1r, t1i, t2r, t2i, t3r, t3i := tw[0], tw[1], tw[2], tw[3], tw[4], tw[5]
	ar, ai := xr[:w], xi[:w]
	br, bi := xr[step:step+w], xi[step:step+w]
	cr, ci := xr[2*step:2*step+w], xi[2*step:2*step+w]
	dr, di := xr[3*step:3*step+w], xi[3*step:3*step+w]
	y0r, y0i := yr[:w], yi[:w]
	y1r, y1i := yr[w:w+w], yi[w:w+w]
	y2r, y2i := yr[2*w:2*w+w], yi[2*w:2*w+w]
	y3r, y3i := yr[3*w:3*w+w], yi[3*w:3*w+w]
	for i := range ar {
		pr, pi := ar[i]+cr[i], ai[i]+ci[i]
		mr, mi := ar[i]-cr[i], ai[i]-ci[i]
		qr, qi := br[i]+dr[i], bi[i]+di[i]
		nr, ni := br[i]-dr[i], bi[i]-di[i]
		y0r[i], y0i[i] = pr+qr, pi+qi
		ur, ui := mr+ni, mi-nr
		y1r[i] = float32(ur*t1r) - float32(ui*t1i)
		y1i[i] = float32(ur*t1i) + float32(ui*t1r)
		ur, ui = pr-qr, pi-qi
		y2r[i] = float32(ur*t2r) - float32(ui*t2i)
		y2i[i] = float32(ur*t2i) + float32(ui*t2r)
		ur, ui = mr-ni, mi+nr
		y3r[i] = float32(ur*t3r) - float32(ui*t3i)
		y3i[i] = float32(ur*t3i) + float32(ui*t3r)
	}
}

func butterfly5(yr, yi, xr, xi []float32, w, step int, tw []float32) {
	const (
		c1 = 0.30901699437494742410  // cos 72°
		c2 = -0.80901699437494742410 // cos 144°
		s1 = 0.95105651629515357212  // sin 72°
		s2 = 0.58778525229247312917  // sin 144°
	)
	ar, ai := xr[:w], xi[:w]
	br, bi := xr[step:step+w], xi[step:step+w]
	cr, ci := xr[2*step:2*step+w], xi[2*step:2*step+w]
	dr, di := xr[3*step:3*step+w], xi[3*step:3*step+w]
	er, ei := xr[4*step:4*step+w], xi[4*step:4*step+w]
	y0r, y0i := yr[:w], yi[:w]
	y1r, y1i := yr[w:w+w], yi[w:w+w]
	y2r, y2i := yr[2*w:2*w+w], yi[2*w:2*w+w]
	y3r, y3i := yr[3*w:3*w+w], yi[3*w:3*w+w]
	y4r, y4i := yr[4*w:4*w+w], yi[4*w:4*w+w]
	for i := range ar {
		pr, pi := br[i]+er[i], bi[i]+ei[i]
		mr, mi := br[i]-er[i], bi[i]-ei[i]
		qr, qi := cr[i]+dr[i], ci[i]+di[i]
		nr, ni := cr[i]-dr[i], ci[i]-di[i]
		y0r[i], y0i[i] = ar[i]+pr+qr, ai[i]+pi+qi

		hr, hi := ar[i]+float32(pr*c1)+float32(qr*c2), ai[i]+float32(pi*c1)+float32(qi*c2)
		gr, gi := float32(mr*s1)+float32(nr*s2), float32(mi*s1)+float32(ni*s2)
		ur, ui := hr+gi, hi-gr
		vr, vi := hr-gi, hi+gr
		y1r[i] = float32(ur*tw[0]) - float32(ui*tw[1])
		y1i[i] = float32(ur*tw[1]) + float32(ui*tw[0])
		y4r[i] = float32(vr*tw[6]) - float32(vi*tw[7])
		y4i[i] = float32(vr*tw[7]) + float32(vi*tw[6])

		hr, hi = ar[i]+float32(pr*c2)+float32(qr*c1), ai[i]+float32(pi*c2)+float32(qi*c1)
		gr, gi = float32(mr*s2)-float32(nr*s1), float32(mi*s2)-float32(ni*s1)
		ur, ui = hr+gi, hi-gr
		vr, vi = hr-gi, hi+gr
		y2r[i] = float32(ur*tw[2]) - float32(ui*tw[3])
		y2i[i] = float32(ur*tw[3]) + float32(ui*tw[2])
		y3r[i] = float32(vr*tw[4]) - float32(vi*tw[5])
		y3i[i] = float32(vr*tw[5]) + float32(vi*tw[4])
	}
}

func product(dst, x, h Planes, add bool) {
	dr, di := dst.Re, dst.Im[:len(dst.Re)]
	xr, xi := x.Re[:len(dr)], x.Im[:len(dr)]
	hr, hi := h.Re[:len(dr)], h.Im[:len(dr)]
	for i := range dr {
		re := float32(xr[i]*hr[i]) - float32(xi[i]*hi[i])
		im := float32(xr[i]*hi[i]) + float32(xi[i]*hr[i])
		if add {
			re += dr[i]
			im += di[i]
		}
		dr[i], di[i] = re, im
	}
}

func scale(dst, x, h Planes, add bool) {
	dr, di := dst.Re, dst.Im[:len(dst.Re)]
	xr, xi, hr := x.Re[:len(dr)], x.Im[:len(dr)], h.Re[:len(dr)]
	for i, v := range hr {
		re, im := float32(xr[i]*v), float32(xi[i]*v)
		if add {
			re += dr[i]
			im += di[i]
		}
		dr[i], di[i] = re, im
	}
}

func transpose(dst, src []float32) {
	d := (*[Lanes * Lanes]float32)(dst)
	s := (*[Lanes * Lanes]float32)(src)
	for i := range Lanes {
		for j := range Lanes {
			d[i*Lanes+j] = s[j*Lanes+i]
		}
	}
}

func transmit(psi Planes, phase []float32) {
	re, im := psi.Re[:len(phase)], psi.Im[:len(phase)]
	for i, x := range phase {
		s, c := sincos(x)
		a, b := re[i], im[i]
		re[i] = float32(a*c) - float32(b*s)
		im[i] = float32(a*s) + float32(b*c)
	}
}

// sincos returns sin x and cos x for |x| up to a few hundred, within 1.5·10⁻⁷, by
// Taylor series around the nearest multiple of π/2.
func sincos(x float32) (s, c float32) {
	const (
		round = 3 << 22 // adding it rounds a small float32 to an integer
		hi    = 1.5703125
		lo    = math.Pi/2 - hi
	)
	k := float32(x*(2/math.Pi)) + round
	q := math.Float32bits(k)
	k -= round
	r := x - float32(k*hi) - float32(k*lo)
	z := float32(r * r)
	s = float32(z*(1./362880)) - 1./5040
	s = float32(z*s) + 1./120
	s = float32(z*s) - 1./6
	s = float32(float32(z*s)*r) + r
	c = float32(z*(1./40320)) - 1./720
	c = float32(z*c) + 1./24
	c = float32(z*c) - 0.5
	c = float32(z*c) + 1
	if q&1 != 0 {
		s, c = c, s
	}
	// The signs: − for sin in quadrants 2 and 3, for cos in 1 and 2.
	s = math.Float32frombits(math.Float32bits(s) ^ q&2<<30)
	c = math.Float32frombits(math.Float32bits(c) ^ (q+1)&2<<30)
	return s, c
}

func rotate(dst, x, rows, column Planes) {
	cr, ci := column.Re[:Lanes], column.Im[:Lanes]
	for r, a := range rows.Re {
		b := rows.Im[r]
		lo, hi := r*Lanes, (r+1)*Lanes
		dr, di := dst.Re[lo:hi], dst.Im[lo:hi]
		xr, xi := x.Re[lo:hi], x.Im[lo:hi]
		for i := range cr {
			hr := float32(a*cr[i]) - float32(b*ci[i])
			hm := float32(a*ci[i]) + float32(b*cr[i])
			re := float32(xr[i]*hr) - float32(xi[i]*hm)
			im := float32(xr[i]*hm) + float32(xi[i]*hr)
			dr[i], di[i] = re, im
		}
	}
}

func addNorm(sum []float32, psi Planes) {
	re, im := psi.Re[:len(sum)], psi.Im[:len(sum)]
	for i, a := range re {
		b := im[i]
		sum[i] += float32(a*a) + float32(b*b)
	}
}
