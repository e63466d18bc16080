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

	//lint:ignore U1000 used with -tags cuda
	device any // an accelerator's own statistics
}

// channel calls f with the values of channel c in each image of each array.
func (b *batchNorm) channel(c int, f func(lo, hi int)) {
	for n := range b.n {
		lo := (n*b.c + c) * b.pixels
		f(lo, lo+b.pixels)
	}
}

func (b *batchNorm) compute(w *kernel.Workers, in [][]float32, out []float32) {
	x, scale, shift := in[0], in[1], in[2]
	w.Run(b.c, func(_, c int) {
		var mean, square float64
		b.channel(c, func(lo, hi int) { mean += sum(x[lo:hi]) })
		mean /= float64(b.batch.count)
		m := float32(mean)
		b.channel(c, func(lo, hi int) { square += sumSquares(x[lo:hi], m) })
		// m is mean rounded; the difference enters the squares once per value.
		d := mean - float64(m)
		variance := max(square/float64(b.batch.count)-d*d, 0)
		b.batch.mean[c], b.batch.variance[c] = mean, variance
		k := float64(scale[c]) / math.Sqrt(variance+b.epsilon)
		b.channel(c, func(lo, hi int) {
			affine(out[lo:hi], x[lo:hi], float32(k), float32(float64(shift[c])-mean*k), b.relu)
		})
	})
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
		var dot, total float64
		mean := float32(b.batch.mean[c])
		b.channel(c, func(lo, hi int) {
			d, t := sumProducts(in[0][lo:hi], in[1][lo:hi], in[2][lo:hi], mean, b.relu)
			dot += d
			total += t
		})
		dot -= (b.batch.mean[c] - float64(mean)) * total
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
		q := -k*float64(sums[b.c+c])/count - p*b.batch.mean[c]
		b.channel(c, func(lo, hi int) {
			combine(out[lo:hi], x[lo:hi], y[lo:hi], dy[lo:hi], float32(k), float32(p), float32(q), b.relu)
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
		k := float64(in[1][c]) / math.Sqrt(float64(in[4][c])+b.epsilon)
		lo, hi := i*b.pixels, (i+1)*b.pixels
		affine(out[lo:hi], in[0][lo:hi], float32(k), float32(float64(in[2][c])-float64(in[3][c])*k), b.relu)
	})
}

// sum adds in float64 with four chains, which a processor overlaps.
func sum(x []float32) float64 {
	var s [4]float64
	for ; len(x) >= 4; x = x[4:] {
		s[0] += float64(x[0])
		s[1] += float64(x[1])
		s[2] += float64(x[2])
		s[3] += float64(x[3])
	}
	for i, v := range x {
		s[i] += float64(v)
	}
	return s[0] + s[1] + (s[2] + s[3])
}

// sumSquares is Σ (x−m)².
func sumSquares(x []float32, m float32) float64 {
	var s [4]float64
	for ; len(x) >= 4; x = x[4:] {
		for i := range s {
			d := float64(x[i] - m)
			s[i] += d * d
		}
	}
	for i, v := range x {
		d := float64(v - m)
		s[i] += d * d
	}
	return s[0] + s[1] + (s[2] + s[3])
}

// sumProducts is Σ dy·(x−m) and Σ dy, over y > 0 only if relu is set.
func sumProducts(x, y, dy []float32, m float32, relu bool) (dot, total float64) {
	y, dy = y[:len(x)], dy[:len(x)]
	for i, v := range x {
		d := dy[i]
		if relu && !(y[i] > 0) {
			d = 0
		}
		dot += float64(d) * float64(v-m)
		total += float64(d)
	}
	return
}

// affine is y = k·x + t, then its positive part if relu is set.
func affine(y, x []float32, k, t float32, relu bool) {
	y = y[:len(x)]
	if !relu {
		for i, v := range x {
			y[i] = k*v + t
		}
		return
	}
	for i, v := range x {
		y[i] = max(k*v+t, 0)
	}
}

// combine is dx = k·dy + p·x + q with dy taken as 0 where relu cut y off.
func combine(dx, x, y, dy []float32, k, p, q float32, relu bool) {
	dx, y, dy = dx[:len(x)], y[:len(x)], dy[:len(x)]
	for i, v := range x {
		d := dy[i]
		if relu && !(y[i] > 0) {
			d = 0
		}
		dx[i] = k*d + p*v + q
	}
}
