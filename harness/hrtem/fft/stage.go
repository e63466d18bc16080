package fft

// The functions here are the whole arithmetic of the package. Every product is
// rounded by an explicit conversion before it enters a sum, so that no compiler
// fuses the two.

// run does one stage on a block of Lanes rows: for p < m and j' < radix
//
//	dst[q + stride·(radix·p + j')] = exp(−2πi·p·j'/(m·radix)) · Σ_j src[q + stride·(p + m·j)]·exp(−2πi·j·j'/radix)
func (s *stage) run(dst, src Field) {
	w := s.stride * Lanes // floats per run of equal twiddles
	step := s.m * w
	for p := range s.m {
		tw := s.twiddle[p*2*(s.radix-1):]
		x, y := p*w, p*s.radix*w
		switch s.radix {
		case 2:
			butterfly2(dst.Re[y:y+2*w], dst.Im[y:y+2*w], src.Re[x:], src.Im[x:], w, step, tw)
		case 3:
			butterfly3(dst.Re[y:y+3*w], dst.Im[y:y+3*w], src.Re[x:], src.Im[x:], w, step, tw)
		case 4:
			butterfly4(dst.Re[y:y+4*w], dst.Im[y:y+4*w], src.Re[x:], src.Im[x:], w, step, tw)
		case 5:
			butterfly5(dst.Re[y:y+5*w], dst.Im[y:y+5*w], src.Re[x:], src.Im[x:], w, step, tw)
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

// multiply sets dst to x·h, or adds x·h to it. h.Im is nil for a real h.
func multiply(dst, x, h Field, add bool) {
	dr, di := dst.Re, dst.Im[:len(dst.Re)]
	xr, xi, hr := x.Re[:len(dr)], x.Im[:len(dr)], h.Re[:len(dr)]
	if h.Im == nil {
		if add {
			for i, v := range hr {
				dr[i] += float32(xr[i] * v)
				di[i] += float32(xi[i] * v)
			}
			return
		}
		for i, v := range hr {
			dr[i] = xr[i] * v
			di[i] = xi[i] * v
		}
		return
	}
	hi := h.Im[:len(dr)]
	for i, v := range hr {
		re := float32(xr[i]*v) - float32(xi[i]*hi[i])
		im := float32(xr[i]*hi[i]) + float32(xi[i]*v)
		if add {
			re += dr[i]
			im += di[i]
		}
		dr[i], di[i] = re, im
	}
}

// transpose sets the first 16×16 elements of dst to the transpose of src's.
func transpose(dst, src []float32) {
	d := (*[Lanes * Lanes]float32)(dst)
	s := (*[Lanes * Lanes]float32)(src)
	for i := range Lanes {
		for j := range Lanes {
			d[i*Lanes+j] = s[j*Lanes+i]
		}
	}
}
