package kernel

import (
	"math"

	"github.com/refocus-em/refocus/harness/half"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel/winograd"
)

// portable is written for clarity: it is the definition that the assembly is
// tested against, and what runs where there is no assembly. Products that a sum
// follows are explicitly converted or fused with fma, so that no compiler
// decides.
var portable = Set{
	Name:              "portable",
	Gemm16:            portableGemm(16),
	Gemm8:             portableGemm(8),
	Conv16:            portableConv(16),
	Conv8:             portableConv(8),
	Input2:            portableTransform(winograd.Input2[vec](), true),
	InputUp2:          portableTransform(winograd.InputUp2[vec](), true),
	Output2:           portableTransform(winograd.Output2[vec](), false),
	OutputDown2:       portableTransform(winograd.OutputDown2[vec](), false),
	Weight2:           portableTransform(winograd.Weight2[vec](), true),
	Input4:            portableTransform(winograd.Input4[vec](), true),
	InputUp4:          portableTransform(winograd.InputUp4[vec](), true),
	Gradient4:         portableTransform(winograd.Gradient4[vec](), true),
	WeightGradient4:   portableTransform(winograd.WeightGradient4[vec](), false),
	WeightGradientUp4: portableTransform(winograd.WeightGradientUp4[vec](), false),

	Copy: func(dst, g Block, rows, cols int) {
		each(rows, cols, nil, func(r, c, l int) float32 { return g.at(r, c)[l] }, dst, nil)
	},
	Half: func(dst, g Block, rows, cols int) {
		each(rows, cols, nil, func(r, c, l int) float32 { return half.Round(g.at(r, c)[l]) }, dst, nil)
	},
	Act: func(dst, g Block, rows, cols int, p *Params) {
		each(rows, cols, nil, func(r, c, l int) float32 {
			return max0(FMA(g.at(r, c)[l], p[0][l], p[1][l]))
		}, dst, nil)
	},
	Stats: func(dst, g Block, rows, cols int, s *Sums) {
		each(rows, cols, s, func(r, c, l int) float32 { return g.at(r, c)[l] }, dst, nil)
	},
	AddStats: func(dst, g, x Block, rows, cols int, s *Sums) {
		each(rows, cols, s, func(r, c, l int) float32 { return g.at(r, c)[l] + x.at(r, c)[l] }, dst, nil)
	},
	Mask: func(dst, g, x Block, rows, cols int, p *Params, s *Sums) {
		each(rows, cols, s, func(r, c, l int) float32 {
			if FMA(x.at(r, c)[l], p[0][l], p[1][l]) > 0 {
				return g.at(r, c)[l]
			}
			return 0
		}, dst, func(r, c, l int) float32 { return x.at(r, c)[l] - p[2][l] })
	},
	Affine: func(dst, g, x Block, rows, cols int, p *Params) {
		each(rows, cols, nil, func(r, c, l int) float32 {
			return FMA(g.at(r, c)[l], p[0][l], FMA(x.at(r, c)[l], p[1][l], p[2][l]))
		}, dst, nil)
	},
	AffineAdd: func(dst, g, x, r Block, rows, cols int, p *Params) {
		each(rows, cols, nil, func(i, c, l int) float32 {
			return FMA(g.at(i, c)[l], p[0][l], FMA(x.at(i, c)[l], p[1][l], p[2][l])) + r.at(i, c)[l]
		}, dst, nil)
	},
	Pool: func(dst, src Block, rows, cols int, p *Params) {
		each(rows, cols, nil, func(r, c, l int) float32 {
			m, _ := largest(src, r, c, l, p)
			return m
		}, dst, nil)
	},
	Unpool: func(dst, g, src Block, rows, cols int, p *Params) {
		for r := range rows {
			for c := range cols {
				for l := range Lanes {
					_, at := largest(src, r, c, l, p)
					for i := range 4 {
						v := float32(0)
						if i == at {
							v = g.at(r, c)[l]
						}
						dst.at(2*r+i/2, 2*c+i%2)[l] = v
					}
				}
			}
		}
	},
	Transpose8: func(dst []float32, dstRow, dstBlock int, src []float32, srcRow, srcBlock, count int) {
		for n := range count {
			for i := range Lanes {
				for j := range Lanes {
					dst[(count-1-n)*dstBlock+j*dstRow+i] = src[n*srcBlock+i*srcRow+j]
				}
			}
		}
	},
	softmax2: portableSoftmax2,
	loss2:    portableLoss2,
	Adam: func(w, m, v, g []float32, a *Adam) {
		for i := range w {
			d := float32(g[i] * a.InvScale)
			m[i] = FMA(d, a.OneMinusBeta1, float32(m[i]*a.Beta1))
			d = float32(d * d)
			v[i] = FMA(d, a.OneMinusBeta2, float32(v[i]*a.Beta2))
			t := FMA(float32(math.Sqrt(float64(v[i]))), a.InvRootCorrection, a.Epsilon)
			w[i] = FMA(float32(m[i]/t), a.Rate, w[i])
		}
	},
}

// FMA returns x·y + z rounded once. The product is exact in float64; the sum
// is rounded to float64 and then to float32, which differs from one rounding
// only if the first lands exactly between two float32 values (or below the
// normal range): then the last bit is corrected with the sum's error, "rounding
// to odd".
func FMA(x, y, z float32) float32 {
	p := float64(x) * float64(y)
	s := p + float64(z)
	b := math.Float64bits(s)
	if b&0x1fffffff != 0x10000000 && (s >= 0x1p-126 || s <= -0x1p-126) {
		return float32(s)
	}
	if math.IsNaN(s) || math.IsInf(s, 0) {
		return float32(s)
	}
	// TwoSum: p + z = s + e exactly.
	t := s - p
	e := (p - (s - t)) + (float64(z) - t)
	if e != 0 && b&1 == 0 {
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
		s = math.Float64frombits(b)
	}
	return float32(s)
}

// max0 is VMAXPS of zero and y: y where the two compare equal or not at all.
func max0(y float32) float32 {
	if 0 > y {
		return 0
	}
	return y
}

// largest returns the maximum of the activation of 2×2 pixels and the first
// pixel that has it; a maximum that is no number is at none.
func largest(src Block, r, c, l int, p *Params) (m float32, at int) {
	var y [4]float32
	for i := range y {
		y[i] = max0(FMA(src.at(2*r+i/2, 2*c+i%2)[l], p[0][l], p[1][l]))
		if i == 0 || y[i] > m {
			m = y[i]
		}
	}
	for at < 4 && y[at] != m {
		at++
	}
	return m, at
}

type vec = *[Lanes]float32

func (b Block) at(r, c int) vec { return vec(b.Data[r*b.Row+c*b.Col:]) }

// each computes dst and, with s, the sums of dst and of dst times factor (dst
// itself without one), in four partial sums by column modulo four.
func each(rows, cols int, s *Sums, f func(r, c, l int) float32, dst Block, factor func(r, c, l int) float32) {
	var partial [4]Sums
	for r := range rows {
		for c := range cols {
			d := dst.at(r, c)
			p := &partial[c%4]
			for l := range Lanes {
				v := f(r, c, l)
				if s != nil {
					w := v
					if factor != nil {
						w = factor(r, c, l)
					}
					p[0][l] += v
					p[1][l] = FMA(v, w, p[1][l])
				}
				d[l] = v
			}
		}
	}
	if s != nil {
		for i := range s {
			for l := range Lanes {
				s[i][l] += (partial[0][i][l] + partial[1][i][l]) + (partial[2][i][l] + partial[3][i][l])
			}
		}
	}
}

func portableGemm(columns int) Gemm {
	return func(c []float32, crs int, a []float32, ars, ads int, b []float32, bds, rows, depth int, acc bool) {
		for i := range rows {
			out := c[i*crs : i*crs+columns]
			if !acc {
				clear(out)
			}
			for k := range depth {
				x := a[i*ars+k*ads]
				for j, y := range b[k*bds : k*bds+columns] {
					out[j] = FMA(x, y, out[j])
				}
			}
		}
	}
}

func portableConv(columns int) Conv {
	gemm := portableGemm(columns)
	return func(c []float32, crs int, a []float32, ars, ads, aos int, b []float32, bds, bos, rows, depth, outer int, acc bool) {
		for o := range outer {
			gemm(c, crs, a[o*aos:], ars, ads, b[o*bos:], bds, rows, depth, acc || o > 0)
		}
	}
}

// lanes is the arithmetic of package winograd on eight numbers.
type lanes struct{}

func (lanes) Add(a, b vec) vec {
	var r [Lanes]float32
	for i := range r {
		r[i] = a[i] + b[i]
	}
	return &r
}

func (lanes) Sub(a, b vec) vec {
	var r [Lanes]float32
	for i := range r {
		r[i] = a[i] - b[i]
	}
	return &r
}

func (lanes) Mul(k float32, a vec) vec {
	var r [Lanes]float32
	for i := range r {
		r[i] = float32(k * a[i])
	}
	return &r
}

func (lanes) FMA(k float32, a, b vec) vec {
	var r [Lanes]float32
	for i := range r {
		r[i] = FMA(k, a[i], b[i])
	}
	return &r
}

func portableTransform(t winograd.Transform[vec], fromPixels bool) Transform {
	at := func(x []float32, pixels bool, width, row, i, j int) vec {
		if pixels {
			return vec(x[i*row+j*Lanes:])
		}
		return vec(x[(i*width+j)*row:])
	}
	return func(dst []float32, dstRow, dstTile int, src []float32, srcRow, srcTile, tiles int) {
		var kept [6][6][Lanes]float32
		for n := range tiles {
			d, s := dst[n*dstTile:], src[n*srcTile:]
			winograd.Square[vec](lanes{}, t,
				func(i, j int) vec { return at(s, fromPixels, t.In, srcRow, i, j) },
				func(i, j int, v vec) { kept[i][j] = *v },
				func(i, j int) vec { return &kept[i][j] },
				func(i, j int, v vec) { *at(d, !fromPixels, t.Out, dstRow, i, j) = *v })
		}
	}
}
