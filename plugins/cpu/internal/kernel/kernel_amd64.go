package kernel

import "golang.org/x/sys/cpu"

// native lists the sets that the processor and the system have, best first.
var native = func() []*Set {
	var s []*Set
	x := &cpu.X86
	// x/sys/cpu does not report F16C, which every processor with AVX2 has
	// (Intel since Haswell, AMD since Excavator).
	if !x.HasAVX2 || !x.HasFMA {
		return nil
	}
	// Every processor with AVX-512 but the Xeon Phi has these four.
	if x.HasAVX512F && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512BW {
		s = append(s, &avx512)
	}
	return append(s, &avx2)
}()

var avx2 = Set{
	Name:              "avx2",
	Gemm16:            gemm(conv16AVX2, 16),
	Gemm8:             gemm(conv8AVX2, 8),
	Conv16:            conv(conv16AVX2, 16),
	Conv8:             conv(conv8AVX2, 8),
	Input2:            transform(input2AVX2, pixels(4, 4), points(16)),
	InputUp2:          transform(inputUp2AVX2, pixels(3, 3), points(16)),
	Output2:           transform(output2AVX2, points(16), pixels(2, 2)),
	OutputDown2:       transform(outputDown2AVX2, points(16), pixels(1, 1)),
	Weight2:           transform(weight2AVX2, pixels(3, 3), points(16)),
	Input4:            transform(input4AVX2, pixels(6, 6), points(36)),
	InputUp4:          transform(inputUp4AVX2, pixels(4, 4), points(36)),
	Gradient4:         transform(gradient4AVX2, pixels(4, 4), points(36)),
	WeightGradient4:   transform(weightGradient4AVX2, points(36), pixels(3, 3)),
	WeightGradientUp4: transform(weightGradientUp4AVX2, points(36), pixels(3, 3)),

	Copy: func(dst, g Block, rows, cols int) {
		if check(rows, cols, dst, g) {
			copyAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), rows, cols)
		}
	},
	Half: func(dst, g Block, rows, cols int) {
		if check(rows, cols, dst, g) {
			halfAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), rows, cols)
		}
	},
	Act: func(dst, g Block, rows, cols int, p *Params) {
		if check(rows, cols, dst, g) {
			actAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), rows, cols, &p[0][0])
		}
	},
	Stats: func(dst, g Block, rows, cols int, s *Sums) {
		if check(rows, cols, dst, g) {
			statsAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), rows, cols, &s[0][0])
		}
	},
	AddStats: func(dst, g, x Block, rows, cols int, s *Sums) {
		if check(rows, cols, dst, g, x) {
			addStatsAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), &x.Data[0], x.skip(cols), rows, cols, &s[0][0])
		}
	},
	Mask: func(dst, g, x Block, rows, cols int, p *Params, s *Sums) {
		if check(rows, cols, dst, g, x) {
			maskAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), &x.Data[0], x.skip(cols), rows, cols, &p[0][0], &s[0][0])
		}
	},
	Affine: func(dst, g, x Block, rows, cols int, p *Params) {
		if check(rows, cols, dst, g, x) {
			affineAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), &x.Data[0], x.skip(cols), rows, cols, &p[0][0])
		}
	},
	AffineAdd: func(dst, g, x, r Block, rows, cols int, p *Params) {
		if check(rows, cols, dst, g, x, r) {
			affineAddAVX2(&dst.Data[0], 4*dst.Col, dst.skip(cols), &g.Data[0], 4*g.Col, g.skip(cols), &x.Data[0], x.skip(cols), &r.Data[0], r.skip(cols), rows, cols, &p[0][0])
		}
	},
	Pool: func(dst, src Block, rows, cols int, p *Params) {
		if src.extent(2*rows, 2*cols); check(rows, cols, dst) {
			poolAVX2(&dst.Data[0], dst.skip(cols), &src.Data[0], 4*src.Row, src.pairSkip(cols), rows, cols, &p[0][0])
		}
	},
	Unpool: func(dst, g, src Block, rows, cols int, p *Params) {
		dst.extent(2*rows, 2*cols)
		if src.extent(2*rows, 2*cols); check(rows, cols, g) {
			unpoolAVX2(&dst.Data[0], 4*dst.Row, dst.pairSkip(cols), &g.Data[0], g.skip(cols), &src.Data[0], 4*src.Row, src.pairSkip(cols), rows, cols, &p[0][0])
		}
	},
	Transpose8: func(dst []float32, dstRow, dstBlock int, src []float32, srcRow, srcBlock, count int) {
		if count > 0 {
			_ = dst[(count-1)*dstBlock+7*dstRow+Lanes-1]
			_ = src[(count-1)*srcBlock+7*srcRow+Lanes-1]
			transpose8AVX2(&dst[0], 4*dstRow, 4*dstBlock, &src[0], 4*srcRow, 4*srcBlock, count)
		}
	},
	softmax2: func(p0, p1 []float32, z []float32, quads int) {
		_, _, _ = p0[4*quads-1], p1[4*quads-1], z[4*quads*Lanes-1]
		softmax2AVX2(&p0[0], &p1[0], &z[0], quads)
	},
	loss2: func(g []float32, twice float64, z []float32, labels []uint8, quads int) (sums lossSums) {
		_, _ = z[4*quads*Lanes-1], labels[4*quads-1]
		if g == nil {
			loss2AVX2(&z[0], &labels[0], quads, &sums[0])
		} else {
			_ = g[4*quads*Lanes-1]
			lossGradient2AVX2(&g[0], twice, &z[0], &labels[0], quads, &sums[0])
		}
		return sums
	},
	Peak: peakAVX2,
	Adam: func(w, m, v, g []float32, a *Adam) {
		if n := len(w) / Lanes; n > 0 {
			_, _, _ = m[n*Lanes-1], v[n*Lanes-1], g[n*Lanes-1]
			adamAVX2(&w[0], &m[0], &v[0], &g[0], n, &a.InvScale)
		}
	},
}

// avx512 is avx2 but for the kernels that wider or more registers speed up; the
// package's comment says why the others are not among them.
var avx512 = func() Set {
	s := avx2
	s.Name = "avx512"
	s.Gemm16, s.Conv16 = gemm(conv16AVX512, 16), conv(conv16AVX512, 16)
	s.Input4 = pairs(input4AVX512, s.Input4, pixels(6, 6), points(36))
	s.InputUp4 = pairs(inputUp4AVX512, s.InputUp4, pixels(4, 4), points(36))
	s.Gradient4 = pairs(gradient4AVX512, s.Gradient4, pixels(4, 4), points(36))
	s.WeightGradient4 = pairs(weightGradient4AVX512, s.WeightGradient4, points(36), pixels(3, 3))
	s.WeightGradientUp4 = pairs(weightGradientUp4AVX512, s.WeightGradientUp4, points(36), pixels(3, 3))
	s.Peak = peakAVX512
	return s
}()

// check reports whether there is anything to do, and panics if a block is too
// short.
func check(rows, cols int, bs ...Block) bool {
	for _, b := range bs {
		b.extent(rows, cols)
	}
	return rows > 0 && cols > 0
}

// skip is the distance in bytes from the end of a row to the next.
func (b Block) skip(cols int) int { return 4 * (b.Row - cols*b.Col) }

// pairSkip leads from the end of 2·cols pixels of a row to the row after next.
func (b Block) pairSkip(cols int) int { return 4 * (2*b.Row - 2*cols*b.Col) }

type convKernel func(c *float32, crs int, a *float32, ars, ads, askip int, b *float32, bds, bskip int, rows, depth, outer, acc int)

// gemm is a convolution of one outer step, or of none.
func gemm(f convKernel, columns int) Gemm {
	one := conv(f, columns)
	return func(c []float32, crs int, a []float32, ars, ads int, b []float32, bds, rows, depth int, acc bool) {
		switch {
		case rows <= 0:
		case depth > 0:
			one(c, crs, a, ars, ads, depth*ads, b, bds, depth*bds, rows, depth, 1, acc)
		case !acc:
			for i := range rows {
				clear(c[i*crs : i*crs+columns])
			}
		}
	}
}

func conv(f convKernel, columns int) Conv {
	return func(c []float32, crs int, a []float32, ars, ads, aos int, b []float32, bds, bos, rows, depth, outer int, acc bool) {
		if rows <= 0 || depth <= 0 || outer <= 0 {
			panic("kernel: empty convolution")
		}
		_ = c[(rows-1)*crs+columns-1]
		_ = a[(rows-1)*ars+(depth-1)*ads+(outer-1)*aos]
		_ = b[(depth-1)*bds+(outer-1)*bos+columns-1]
		flag := 0
		if acc {
			flag = 1
		}
		f(&c[0], 4*crs, &a[0], 4*ars, 4*ads, 4*(aos-depth*ads), &b[0], 4*bds, 4*(bos-depth*bds), rows, depth, outer, flag)
	}
}

// shape is what one tile of a Transform occupies.
type shape struct{ rows, cols int }

func pixels(rows, cols int) shape { return shape{rows, cols} }
func points(n int) shape          { return shape{n, 1} }

func (s shape) extent(x []float32, row, tile, tiles int) {
	_ = x[(tiles-1)*tile+(s.rows-1)*row+s.cols*Lanes-1]
}

func transform(f func(dst *float32, dstRow, dstTile int, src *float32, srcRow, srcTile, tiles int), from, to shape) Transform {
	return func(dst []float32, dstRow, dstTile int, src []float32, srcRow, srcTile, tiles int) {
		if tiles > 0 {
			to.extent(dst, dstRow, dstTile, tiles)
			from.extent(src, srcRow, srcTile, tiles)
			f(&dst[0], 4*dstRow, 4*dstTile, &src[0], 4*srcRow, 4*srcTile, tiles)
		}
	}
}

// pairs is a Transform of tiles two by two, and by one for the last of an odd
// number.
func pairs(two func(dst *float32, dstRow, dstTile int, src *float32, srcRow, srcTile, pairs int), one Transform, from, to shape) Transform {
	even := transform(func(dst *float32, dstRow, dstTile int, src *float32, srcRow, srcTile, tiles int) {
		two(dst, dstRow, dstTile, src, srcRow, srcTile, tiles/2)
	}, from, to)
	return func(dst []float32, dstRow, dstTile int, src []float32, srcRow, srcTile, tiles int) {
		n := tiles &^ 1
		even(dst, dstRow, dstTile, src, srcRow, srcTile, n)
		if n < tiles {
			one(dst[n*dstTile:], dstRow, dstTile, src[n*srcTile:], srcRow, srcTile, 1)
		}
	}
}
