package crosscheck

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// The matrices are those of a convolution: in float64 the algorithm gives what direct
// sums give. The amplification of the smaller F(2×2,3×3) is 64, as in the literature's
// tables of sums of absolute values.
func TestWinogradIsConvolution(t *testing.T) {
	rng := seed.Rand(t)
	g, d := make([]float64, 3), make([]float64, 6)
	for i := range g {
		g[i] = rng.NormFloat64()
	}
	for i := range d {
		d[i] = rng.NormFloat64()
	}
	for k, a := range largestWinograd.outputs {
		sum := 0.0
		for i, v := range a {
			p, q := 0.0, 0.0
			for j, x := range g {
				p += largestWinograd.weights[i][j] * x
			}
			for j, x := range d {
				q += largestWinograd.inputs[i][j] * x
			}
			sum += v * p * q
		}
		want := g[0]*d[k] + g[1]*d[k+1] + g[2]*d[k+2]
		if math.Abs(sum-want) > 1e-13 {
			t.Errorf("output %d is %g, want %g", k, sum, want)
		}
	}
	small := winograd{
		outputs: [][]float64{{1, 1, 1, 0}, {0, 1, -1, -1}},
		weights: [][]float64{{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}},
		inputs:  [][]float64{{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
	}
	if a := small.amplification(); a != 64 {
		t.Errorf("F(2×2,3×3) amplifies by %g, want 64", a)
	}
	if winogradAmplification < 64 || winogradNoise < small.noise() {
		t.Errorf("F(4×4,3×3) amplifies by %g with noise %g, F(2×2,3×3) by 64 with noise %g", winogradAmplification, winogradNoise, small.noise())
	}
}

// randomArray is of random numbers that are float32.
func randomArray(normal func() float64, shape ...int) *reference.Array {
	a := reference.NewArray(shape...)
	for i := range a.Data {
		a.Data[i] = float64(float32(normal()))
	}
	return a
}

// Convolutions in float32, in several orders and by Winograd's algorithm, lie within
// the bounds, and one that loses a single product of a hundred does not.
func TestConvolutionsWithinBounds(t *testing.T) {
	rng := seed.Rand(t)
	const channels, side = 12, 8
	n := &nn.Node{Name: "conv", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"y"},
		Attrs: nn.Attrs{"kernel_shape": []int64{3, 3}, "pads": []int64{1, 1, 1, 1}}}
	x, w := randomArray(rng.NormFloat64, 2, channels, side, side), randomArray(rng.NormFloat64, 3, channels, 3, 3)
	net := &reference.Network{}
	o, err := arithmetics[backend.Float32].evaluate(net, n, []*reference.Array{x, w}, []int{2, 3, side, side}, true, true)
	if err != nil {
		t.Fatal(err)
	}
	pixel := func(b, c, y, x0 int) float32 {
		if y < 0 || x0 < 0 || y >= side || x0 >= side {
			return 0
		}
		return float32(*x.At(b, c, y, x0))
	}
	// sum adds up products in an order given by a permutation of them.
	sum := func(order []int, b, k, y, x0 int) float32 {
		var s float32
		for _, i := range order {
			c, ky, kx := i/9, i/3%3, i%3
			s += float32(*w.At(k, c, ky, kx)) * pixel(b, c, y+ky-1, x0+kx-1)
		}
		return s
	}
	transform := func(m [][]float64, v [][]float32) [][]float32 { // m v mᵀ
		rows := make([][]float32, len(m))
		for i := range m {
			rows[i] = make([]float32, len(v[0]))
			for j := range v[0] {
				for k := range v {
					rows[i][j] += float32(m[i][k]) * v[k][j]
				}
			}
		}
		out := make([][]float32, len(m))
		for i := range m {
			out[i] = make([]float32, len(m))
			for j := range m {
				for k := range rows[i] {
					out[i][j] += rows[i][k] * float32(m[j][k])
				}
			}
		}
		return out
	}
	square := func(n int, f func(i, j int) float32) [][]float32 {
		v := make([][]float32, n)
		for i := range v {
			v[i] = make([]float32, n)
			for j := range v[i] {
				v[i][j] = f(i, j)
			}
		}
		return v
	}
	shuffled := rng.Perm(9 * channels)
	backwards := make([]int, 9*channels)
	for i := range backwards {
		backwards[i] = len(backwards) - 1 - i
	}
	for name, compute := range map[string]func(b, k, y, x int) float32{
		"in a random order": func(b, k, y, x int) float32 { return sum(shuffled, b, k, y, x) },
		"backwards":         func(b, k, y, x int) float32 { return sum(backwards, b, k, y, x) },
		"by F(4×4,3×3)": func(b, k, y, x int) float32 {
			y0, x0 := y/4*4, x/4*4
			points := square(6, func(i, j int) float32 { return 0 })
			for c := range channels {
				g := transform(largestWinograd.weights, square(3, func(i, j int) float32 { return float32(*w.At(k, c, i, j)) }))
				d := transform(largestWinograd.inputs, square(6, func(i, j int) float32 { return pixel(b, c, y0+i-1, x0+j-1) }))
				for i := range points {
					for j := range points {
						points[i][j] += g[i][j] * d[i][j]
					}
				}
			}
			return transform(largestWinograd.outputs, points)[y-y0][x-x0]
		},
	} {
		got := reference.NewArray(2, 3, side, side)
		for b := range 2 {
			for k := range 3 {
				for y := range side {
					for x := range side {
						*got.At(b, k, y, x) = float64(compute(b, k, y, x))
					}
				}
			}
		}
		var c Check
		c.bounded(got.Data, o.value.Data, o.bound, o.noise)
		t.Logf("%s: %.2g of the bound, length %.2g, expected %.2g", name, c.Bound, c.Local, c.Expected)
		if c.Share() > 1 || c.Local == 0 {
			t.Errorf("%s: %s", name, c.Said())
		}
	}
	wrong := &reference.Array{Shape: o.value.Shape, Data: append([]float64(nil), o.value.Data...)}
	// One product is lost, the largest: the smallest may be below any rounding.
	largest := slices.MaxFunc(shuffled, func(i, j int) int {
		return cmp.Compare(math.Abs(float64(sum([]int{i}, 1, 2, 4, 4))), math.Abs(float64(sum([]int{j}, 1, 2, 4, 4))))
	})
	rest := slices.DeleteFunc(slices.Clone(shuffled), func(i int) bool { return i == largest })
	*wrong.At(1, 2, 4, 4) = float64(sum(rest, 1, 2, 4, 4))
	var c Check
	c.bounded(wrong.Data, o.value.Data, o.bound, o.noise)
	if c.Share() <= 1 {
		t.Errorf("a lost product is within the limits: %+v", c)
	}
	c = Check{}
	wrong.Data[0] = math.NaN()
	if c.bounded(wrong.Data, o.value.Data, o.bound, o.noise); c.Share() <= 1 {
		t.Errorf("NaN is within the limits: %+v", c)
	}
}

// The expected error of a sum is that of sums in random orders, with errors that are
// even between the limits, within the scatter of 4000 of them (2 %, three times that
// allowed) and what the approximation of large n leaves out (5 %).
func TestExpectedErrorOfSums(t *testing.T) {
	rng := seed.Rand(t)
	a := arithmetic{unit: 0x1p-20}
	for _, offset := range []float64{0, 0.5} {
		const n = 60
		v := make([]float64, n)
		total, squares := 0.0, 0.0
		for i := range v {
			v[i] = rng.NormFloat64() + offset
			total += v[i]
			squares += v[i] * v[i]
		}
		mean := 0.0
		const trials = 4000
		for range trials {
			rng.Shuffle(n, func(i, j int) { v[i], v[j] = v[j], v[i] })
			sum, err := 0.0, 0.0
			for _, x := range v {
				sum += x
				err += a.unit * (2*rng.Float64() - 1) * x // the product
				err += a.unit * (2*rng.Float64() - 1) * sum
			}
			mean += err * err / trials
		}
		if ratio := a.sum(n, total, squares) / mean; ratio < 0.88 || ratio > 1.12 {
			t.Errorf("terms around %g: expected square %.3g times that of %d sums", offset, ratio, trials)
		}
	}
}
