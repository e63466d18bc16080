package gorgonia

import (
	"math"

	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// batchNorm is ONNX's BatchNormalization in training mode, normalising with
// the batch's own statistics, with the ReLU that follows it where relu is set.
// Inputs x, scale and shift.
//
// gorgonia.BatchNorm's derivative is wrong in inference mode, its hash keeps
// one decimal of momentum and ε, and creating a tape machine resets its running
// statistics. Here the operator only notes the batch's statistics; the network
// moves the running ones after the step, so that a run that fails, is cancelled
// or must not change the state leaves them alone.
type batchNorm struct {
	n, c, pixels int
	epsilon      float64
	relu         bool
	batch        *batchStatistics
}

// batchStatistics of the last run, per channel.
type batchStatistics struct {
	mean, variance []float64 // biased variance
	count          int       // values per channel
	device         deviceStatistics
}

// channel calls f with the bounds of channel c's pieces in each array.
func (b *batchNorm) channel(c int, f func(lo, hi int)) {
	for n := range b.n {
		plane := (n*b.c + c) * b.pixels
		kernel.Pieces(b.pixels, func(lo, hi int) { f(plane+lo, plane+hi) })
	}
}

// planes calls f with the bounds of channel c in each image of each array.
func (b *batchNorm) planes(c int, f func(lo, hi int)) {
	for n := range b.n {
		lo := (n*b.c + c) * b.pixels
		f(lo, lo+b.pixels)
	}
}

func (b *batchNorm) compute(w *kernel.Workers, in [][]float32, out []float32) {
	x, scale, shift := in[0], in[1], in[2]
	count := float64(b.batch.count)
	w.Run(b.c, func(_, c int) {
		var sum, square kernel.Total
		b.channel(c, func(lo, hi int) { sum.Add(kernel.Sum(x[lo:hi])) })
		mean := sum.Value() / count
		m := float32(mean)
		b.channel(c, func(lo, hi int) { square.Add(kernel.SumSquares(x[lo:hi], m)) })
		// m is mean rounded; the difference enters the squares once per value.
		d := mean - float64(m)
		variance := max(square.Value()/count-float64(d*d), 0)
		b.batch.mean[c], b.batch.variance[c] = mean, variance
		k, t := coefficients(float64(scale[c]), float64(shift[c]), mean, variance, b.epsilon)
		b.planes(c, func(lo, hi int) { kernel.Affine(out[lo:hi], x[lo:hi], k, t, b.relu) })
	})
}

// coefficients of normalisation as y = k·x + t.
func coefficients(scale, shift, mean, variance, epsilon float64) (k, t float32) {
	f := scale / math.Sqrt(variance+epsilon)
	return float32(f), float32(shift - float64(mean*f))
}

func (b *batchNorm) gradients(g *builder, o *op, in G.Nodes, output, grad *G.Node, need []bool) (G.Nodes, error) {
	// One pass yields the gradients for scale and shift together, and the one
	// for x needs both.
	sums, err := g.apply(o.name, (*batchNormSums)(b), []int{2, b.c}, nil, in[0], output, grad)
	if err != nil {
		return nil, err
	}
	return only(need, func(i int) (*G.Node, error) {
		if i == 0 {
			return g.apply(o.name, (*batchNormInput)(b), in[0].Shape(), nil, in[0], output, grad, in[1], sums)
		}
		return g.apply(o.name, batchNormRow(i-1), []int{b.c}, nil, sums)
	})
}

// batchNormSums computes the gradients for scale (first row) and shift (second)
// from x, output and output gradient.
type batchNormSums batchNorm

func (s *batchNormSums) compute(w *kernel.Workers, in [][]float32, out []float32) {
	b := (*batchNorm)(s)
	w.Run(b.c, func(_, c int) {
		var products, sum kernel.Total
		mean := float32(b.batch.mean[c])
		b.channel(c, func(lo, hi int) {
			d, t := kernel.SumProducts(in[0][lo:hi], in[1][lo:hi], in[2][lo:hi], mean, b.relu)
			products.Add(d)
			sum.Add(t)
		})
		total := sum.Value()
		dot := products.Value() - float64((b.batch.mean[c]-float64(mean))*total)
		out[c] = float32(dot / math.Sqrt(b.batch.variance[c]+b.epsilon))
		out[b.c+c] = float32(total)
	})
}

// batchNormRow copies one row of batchNormSums' result.
type batchNormRow int

func (r batchNormRow) compute(_ *kernel.Workers, in [][]float32, out []float32) {
	copy(out, in[0][int(r)*len(out):])
}

// batchNormInput computes the gradient for x from x, output, output gradient,
// scale and batchNormSums' result.
type batchNormInput batchNorm

func (s *batchNormInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	b := (*batchNorm)(s)
	x, y, dy, scale, sums := in[0], in[1], in[2], in[3], in[4]
	w.Run(b.c, func(_, c int) {
		// dx = γ/σ · (dy − mean(dy) − x̂ · mean(dy·x̂)) = k·dy + p·x + q
		inv := 1 / math.Sqrt(b.batch.variance[c]+b.epsilon)
		k := float64(scale[c]) * inv
		count := float64(b.batch.count)
		p := -k * inv * float64(sums[c]) / count
		q := -k*float64(sums[b.c+c])/count - float64(p*b.batch.mean[c])
		b.planes(c, func(lo, hi int) {
			kernel.Combine(out[lo:hi], x[lo:hi], y[lo:hi], dy[lo:hi], float32(k), float32(p), float32(q), b.relu)
		})
	})
}

// batchNormInference is BatchNormalization with running statistics. Inputs x,
// scale, shift, running mean and running variance.
type batchNormInference struct {
	n, c, pixels int
	epsilon      float64
	relu         bool
}

func (b batchNormInference) compute(w *kernel.Workers, in [][]float32, out []float32) {
	w.Run(b.n*b.c, func(_, i int) {
		c := i % b.c
		k, t := coefficients(float64(in[1][c]), float64(in[2][c]), float64(in[3][c]), float64(in[4][c]), b.epsilon)
		lo, hi := i*b.pixels, (i+1)*b.pixels
		kernel.Affine(out[lo:hi], in[0][lo:hi], k, t, b.relu)
	})
}
