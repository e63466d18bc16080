package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel/series"
)

// arena hands out guarded buffers of random numbers.
type arena struct {
	t *testing.T
	r *rand.Rand
}

func (a arena) random(n int) []float32 {
	x := guarded(a.t, n)
	for i := range x {
		x[i] = float32(a.r.NormFloat64())
	}
	return x
}

// block is a random block that ends exactly where its memory does.
func (a arena) block(rows, cols, col int) Block {
	row := cols*col + 8*a.r.IntN(3)
	return Block{a.random((rows-1)*row + (cols-1)*col + Lanes), row, col}
}

func (a arena) params() *Params {
	var p Params
	for i := range p {
		for l := range p[i] {
			p[i][l] = float32(a.r.NormFloat64())
		}
	}
	return &p
}

func clone(x []float32) []float32 { return append([]float32(nil), x...) }

func (b Block) clone() Block { return Block{clone(b.Data), b.Row, b.Col} }

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d of %d is %x, the portable kernel gives %x", what, i, len(want), got[i], want[i])
		}
	}
}

// eachNative runs f for every set in assembly that this processor has. Those
// of the sets that it has not are tested in package smoke, in an emulator.
func eachNative(t *testing.T, f func(t *testing.T, s *Set)) {
	if len(native) == 0 {
		t.Skip("no assembly kernels for this processor")
	}
	for _, s := range native {
		t.Run(s.Name, func(t *testing.T) { f(t, s) })
	}
}

// best is what benchmarks measure: the set that Select chooses.
func best(b *testing.B) *Set {
	s, err := Select("")
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func TestGemmTwins(t *testing.T) { eachNative(t, testGemmTwins) }

func testGemmTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(1, 2))}
	for range 300 {
		rows, depth, acc := 1+a.r.IntN(40), a.r.IntN(40), a.r.IntN(2) == 1
		for _, columns := range []int{8, 16} {
			native, twin := s.Gemm8, portable.Gemm8
			if columns == 16 {
				native, twin = s.Gemm16, portable.Gemm16
			}
			d := max(depth, 1)
			crs, bds := columns+8*a.r.IntN(3), columns+a.r.IntN(3)
			ars, ads := d+a.r.IntN(5), 1
			if a.r.IntN(2) == 1 {
				ars, ads = 1+a.r.IntN(3), 3*rows
			}
			c := a.random((rows-1)*crs + columns)
			x := a.random((rows-1)*ars + (d-1)*ads + 1)
			b := a.random((d-1)*bds + columns)
			want := clone(c)
			twin(want, crs, x, ars, ads, b, bds, rows, depth, acc)
			native(c, crs, x, ars, ads, b, bds, rows, depth, acc)
			same(t, "gemm", c, want)
		}
	}
}

func TestConvTwins(t *testing.T) { eachNative(t, testConvTwins) }

func testConvTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(21, 22))}
	for range 400 {
		rows, depth, outer, acc := 1+a.r.IntN(40), 1+a.r.IntN(20), 1+a.r.IntN(4), a.r.IntN(2) == 1
		for _, columns := range []int{8, 16} {
			native, twin := s.Conv8, portable.Conv8
			if columns == 16 {
				native, twin = s.Conv16, portable.Conv16
			}
			crs, bds := columns+8*a.r.IntN(3), columns+a.r.IntN(3)
			bos := depth*bds + a.r.IntN(40)
			ars, ads := 1+a.r.IntN(depth+4), 1
			if a.r.IntN(2) == 1 {
				ars, ads = 1+a.r.IntN(3), 1+a.r.IntN(3*rows)
			}
			aos := a.r.IntN(2*depth*ads + 3)
			c := a.random((rows-1)*crs + columns)
			x := a.random((rows-1)*ars + (depth-1)*ads + (outer-1)*aos + 1)
			b := a.random((depth-1)*bds + (outer-1)*bos + columns)
			want := clone(c)
			twin(want, crs, x, ars, ads, aos, b, bds, bos, rows, depth, outer, acc)
			native(c, crs, x, ars, ads, aos, b, bds, bos, rows, depth, outer, acc)
			same(t, "conv", c, want)
		}
	}
}

func TestLossTwins(t *testing.T) { eachNative(t, testLossTwins) }

func testLossTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(23, 24))}
	for n := 1; n < 40; n++ {
		z, g := a.random(n*Lanes), a.random(n*Lanes)
		for i := range n {
			z[i*Lanes] *= float32(math.Exp(3 * a.r.NormFloat64()))
		}
		if n%3 == 0 {
			z[0], z[a.r.IntN(n)*Lanes+1] = float32(math.Inf(n%2*2-1)), float32(math.NaN())
		}
		labels := make([]uint8, n)
		for i := range labels {
			labels[i] = uint8(a.r.IntN(2))
		}
		equal := func(what string, got, want float64) {
			t.Helper()
			if got != want && (got == got || want == want) {
				t.Fatalf("%s of %d pixels: %x, the portable kernel gives %x", what, n, got, want)
			}
		}
		const unit = 1. / 77
		want := clone(g)
		loss := portable.Loss2(want, z, labels, unit)
		equal("loss", s.Loss2(g, z, labels, unit), loss)
		for i := range g {
			equal("gradient", float64(g[i]), float64(want[i]))
		}
		equal("loss alone", s.Loss2(nil, z, labels, unit), loss)
		var p [4][]float32
		for i := range p {
			p[i] = a.random(n)
		}
		portable.Softmax2(p[0], p[1], z)
		s.Softmax2(p[2], p[3], z)
		for i := range n {
			equal("p0", float64(p[2][i]), float64(p[0][i]))
			equal("p1", float64(p[3][i]), float64(p[1][i]))
		}
	}
}

// The closed form for two classes against the definition.
func TestStudyLoss(t *testing.T) {
	for d := -90.0; d <= 90; d += 0.37 {
		for label := range 2 {
			p0, p1 := series.Softmax[float64](scalar{}, d)
			loss, half := series.Loss[float64](scalar{}, d, math.Float64frombits(uint64(label)))
			p := []float64{1 / (1 + math.Exp(d)), 1 / (1 + math.Exp(-d))}
			want := math.Log(math.Exp(p[0])+math.Exp(p[1])) - p[label]
			q := math.Exp(p[1]) / (math.Exp(p[0]) + math.Exp(p[1]))
			slope := (q - float64(label)) * 2 * p[0] * p[1]
			for _, c := range [][2]float64{{loss, want}, {2 * half, slope}, {p0, p[0]}, {p1, p[1]}} {
				if math.Abs(c[0]-c[1]) > 1e-9*math.Max(math.Abs(c[1]), 1e-6) {
					t.Fatalf("difference %g, label %d: %v, want %v", d, label, c[0], c[1])
				}
			}
		}
	}
	if loss, _ := series.Loss[float64](scalar{}, math.NaN(), 0); loss == loss {
		t.Error("the loss of no number is a number")
	}
	g := make([]float32, Lanes)
	portable.Loss2(g, []float32{1, 3, 0, 0, 0, 0, 0, 0}, []uint8{1}, 4)
	if _, half := series.Loss[float64](scalar{}, 2, math.Float64frombits(1)); g[1] != float32(8*half) || g[0] != -g[1] || g[1] >= 0 {
		t.Errorf("gradient %v of a loss that falls by %v", g, half)
	}
}

func TestTransformTwins(t *testing.T) { eachNative(t, testTransformTwins) }

func testTransformTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(3, 4))}
	for _, k := range []struct {
		name         string
		native, twin Transform
		in, out      int
		toPixels     bool
	}{
		{"Input2", s.Input2, portable.Input2, 4, 4, false},
		{"InputUp2", s.InputUp2, portable.InputUp2, 3, 4, false},
		{"Output2", s.Output2, portable.Output2, 4, 2, true},
		{"OutputDown2", s.OutputDown2, portable.OutputDown2, 4, 1, true},
		{"Weight2", s.Weight2, portable.Weight2, 3, 4, false},
		{"Input4", s.Input4, portable.Input4, 6, 6, false},
		{"InputUp4", s.InputUp4, portable.InputUp4, 4, 6, false},
		{"Gradient4", s.Gradient4, portable.Gradient4, 4, 6, false},
		{"WeightGradient4", s.WeightGradient4, portable.WeightGradient4, 6, 3, true},
		{"WeightGradientUp4", s.WeightGradientUp4, portable.WeightGradientUp4, 6, 3, true},
	} {
		for tiles := 1; tiles < 6; tiles++ {
			pixels := func(n int) (row, tile, size int) {
				row, tile = 8*(n*tiles+a.r.IntN(3)), 8*n
				return row, tile, (tiles-1)*tile + (n-1)*row + n*8
			}
			points := func(n int) (row, tile, size int) {
				tile = 8 * (1 + a.r.IntN(3))
				row = tiles * tile
				return row, tile, (tiles-1)*tile + (n*n-1)*row + 8
			}
			from, to := pixels, points
			if k.toPixels {
				from, to = points, pixels
			}
			sr, st, sn := from(k.in)
			dr, dt, dn := to(k.out)
			src, dst := a.random(sn), a.random(dn)
			want := clone(dst)
			k.twin(want, dr, dt, src, sr, st, tiles)
			k.native(dst, dr, dt, src, sr, st, tiles)
			same(t, k.name, dst, want)
		}
	}
}

func TestRowTwins(t *testing.T) { eachNative(t, testRowTwins) }

func testRowTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(5, 6))}
	kernels := map[string]func(s *Set, dst, g, x, r Block, rows, cols int, p *Params, sums *Sums){
		"Copy":     func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Copy(d, g, m, n) },
		"Half":     func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Half(d, g, m, n) },
		"Act":      func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Act(d, g, m, n, p) },
		"Stats":    func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Stats(d, g, m, n, q) },
		"AddStats": func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.AddStats(d, g, x, m, n, q) },
		"Mask":     func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Mask(d, g, x, m, n, p, q) },
		"Affine":   func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) { s.Affine(d, g, x, m, n, p) },
		"AffineAdd": func(s *Set, d, g, x, r Block, m, n int, p *Params, q *Sums) {
			s.AffineAdd(d, g, x, r, m, n, p)
		},
	}
	for name, k := range kernels {
		for range 40 {
			rows, cols := 1+a.r.IntN(4), 1+a.r.IntN(11)
			dst, g := a.block(rows, cols, 8+8*a.r.IntN(3)), a.block(rows, cols, 8+8*a.r.IntN(2))
			x, r, p := a.block(rows, cols, 8), a.block(rows, cols, 8), a.params()
			g.Data[0], x.Data[0], p[0][0] = 0, float32(math.NaN()), float32(math.Copysign(0, -1))
			if name == "Half" {
				for i := range g.Data {
					g.Data[i] *= float32(math.Exp(20 * a.r.NormFloat64()))
				}
			}
			sums := Sums{{1, 2}, {3, 4}}
			wantSums, want := sums, dst.clone()
			k(&portable, want, g, x, r, rows, cols, p, &wantSums)
			k(s, dst, g, x, r, rows, cols, p, &sums)
			if name == "AddStats" || name[:3] == "Aff" { // NaN payloads are free
				for i, v := range want.Data {
					if v != v && dst.Data[i] != dst.Data[i] {
						dst.Data[i] = v
					}
				}
			}
			same(t, name, dst.Data, want.Data)
			for i := range sums {
				for l := range sums[i] {
					if v := wantSums[i][l]; v == v && v != sums[i][l] {
						t.Fatalf("%s: sum %d of lane %d is %x, the portable kernel gives %x", name, i, l, sums[i][l], v)
					}
				}
			}
		}
	}
}

func TestPoolTwins(t *testing.T) { eachNative(t, testPoolTwins) }

func testPoolTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(11, 12))}
	for range 40 {
		rows, cols := 1+a.r.IntN(4), 1+a.r.IntN(6)
		src, g, p := a.block(2*rows, 2*cols, 8), a.block(rows, cols, 8), a.params()
		for i := range src.Data { // many equal maxima
			src.Data[i] = float32(int(2 * src.Data[i]))
		}
		small, large := a.block(rows, cols, 8), a.block(2*rows, 2*cols, 8)
		wantSmall, wantLarge := small.clone(), large.clone()
		portable.Pool(wantSmall, src, rows, cols, p)
		s.Pool(small, src, rows, cols, p)
		same(t, "pool", small.Data, wantSmall.Data)
		portable.Unpool(wantLarge, g, src, rows, cols, p)
		s.Unpool(large, g, src, rows, cols, p)
		same(t, "unpool", large.Data, wantLarge.Data)
	}
}

func TestTransposeAndAdamTwins(t *testing.T) { eachNative(t, testTransposeAndAdamTwins) }

func testTransposeAndAdamTwins(t *testing.T, s *Set) {
	a := arena{t, rand.New(rand.NewPCG(7, 8))}
	for count := 1; count < 10; count++ {
		src, dst := a.random((count-1)*8+7*72+8), a.random((count-1)*64+7*8+8)
		want := clone(dst)
		portable.Transpose8(want, 8, 64, src, 72, 8, count)
		s.Transpose8(dst, 8, 64, src, 72, 8, count)
		same(t, "transpose", dst, want)

		w, m, v, g := a.random(8*count), a.random(8*count), a.random(8*count), a.random(8*count)
		for i := range v {
			v[i] *= v[i]
		}
		k := &Adam{1. / 1024, 0.9, 0.1, 0.999, 0.001, 3.5, 1e-8, -1e-3}
		w2, m2, v2 := clone(w), clone(m), clone(v)
		portable.Adam(w2, m2, v2, g, k)
		s.Adam(w, m, v, g, k)
		same(t, "w", w, w2)
		same(t, "m", m, m2)
		same(t, "v", v, v2)
	}
}

// The emulated fused multiply-add against exact arithmetic, with operands
// chosen so that sums fall near halfway cases and below the normal range.
func TestFMA(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	number := func() float32 {
		x := math.Float32frombits(r.Uint32())
		switch r.IntN(4) {
		case 0:
			x = float32(1+r.IntN(1<<12)) * float32(math.Ldexp(1, -r.IntN(24)))
		case 1:
			x = math.Float32frombits(r.Uint32() & 0x83ffffff) // tiny
		}
		if x != x || math.IsInf(float64(x), 0) {
			return 1
		}
		return x
	}
	for range 300000 {
		x, y, z := number(), number(), number()
		if r.IntN(3) == 0 { // a sum just beside a halfway point of z's last bit
			z = float32(float64(x)*float64(y)) * (1 << 24)
		}
		got := FMA(x, y, z)
		if z != z || math.IsInf(float64(z), 0) {
			continue
		}
		p := new(big.Float).SetPrec(500).SetFloat64(float64(x))
		p.Mul(p, new(big.Float).SetFloat64(float64(y)))
		p.Add(p, new(big.Float).SetFloat64(float64(z)))
		want, _ := p.Float32()
		if want != got {
			t.Fatalf("FMA(%x, %x, %x) = %x, want %x", x, y, z, got, want)
		}
	}
}

func TestSelect(t *testing.T) {
	for _, s := range sets {
		if got, err := Select(s.Name); got != s {
			t.Errorf("%s: %v, %v", s.Name, got, err)
		}
	}
	t.Setenv("REFOCUS_ISA", "portable")
	if s, err := Select(""); s != &portable {
		t.Errorf("REFOCUS_ISA=portable: %v, %v", s, err)
	}
	t.Setenv("REFOCUS_ISA", "")
	if s, err := Select(""); s != sets[0] {
		t.Errorf("the best is not the default: %v, %v", s, err)
	}
	for _, name := range []string{"avx2", "avx512", "neon"} {
		there := slices.ContainsFunc(sets, func(s *Set) bool { return s.Name == name })
		if _, err := Select(name); (err == nil) != there {
			t.Errorf("%s, which is there: %v: %v", name, there, err)
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	s := best(b)
	for _, size := range []struct{ rows, depth int }{{48, 64}, {48, 16}, {48, 256}, {16, 512}, {64, 64}} {
		b.Run("", func(b *testing.B) {
			x, y, c := make([]float32, size.rows*(size.depth+16)), make([]float32, size.depth*16), make([]float32, size.rows*16)
			for range b.N {
				s.Gemm16(c, 16, x, size.depth+16, 1, y, 16, size.rows, size.depth, false)
			}
			b.ReportMetric(float64(2*16*size.rows*size.depth)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOPS")
		})
	}
}

func BenchmarkConv8(b *testing.B) {
	s := best(b)
	for _, size := range []struct{ rows, depth, outer int }{{64, 24, 3}, {16, 24, 3}, {24, 64, 8}} {
		b.Run("", func(b *testing.B) {
			x, y, c := make([]float32, 8*size.rows*(size.outer+1)+8*size.depth), make([]float32, size.outer*size.depth*8), make([]float32, size.rows*8)
			for range b.N {
				s.Conv8(c, 8, x, 8, 1, 8*size.rows, y, 8, size.depth*8, size.rows, size.depth, size.outer, false)
			}
			b.ReportMetric(float64(2*8*size.rows*size.depth*size.outer)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOPS")
		})
	}
}

func BenchmarkLoss2(b *testing.B) {
	s := best(b)
	z, g, labels := make([]float32, 1024*Lanes), make([]float32, 1024*Lanes), make([]uint8, 1024)
	for b.Loop() {
		s.Loss2(g, z, labels, 1)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/pixel")
}

func BenchmarkTransform(b *testing.B) {
	s := best(b)
	for _, k := range []struct {
		name       string
		f          Transform
		fromPixels bool
		points     int
	}{{"Input2", s.Input2, true, 16}, {"InputUp2", s.InputUp2, true, 16}, {"Output2", s.Output2, false, 16}, {"Input4", s.Input4, true, 36}, {"Gradient4", s.Gradient4, true, 36}} {
		b.Run(k.name, func(b *testing.B) {
			const tiles = 8
			px, pt := make([]float32, 8*8*6*tiles+4096), make([]float32, 36*tiles*80)
			for range b.N {
				if k.fromPixels {
					k.f(pt, 80*tiles, 80, px, 8*4*(tiles+1), 16, tiles)
				} else {
					k.f(px, 8*4*(tiles+1), 16, pt, 80*tiles, 80, tiles)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/tiles, "ns/tile")
		})
	}
}
