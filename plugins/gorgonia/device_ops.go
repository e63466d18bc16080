package gorgonia

import (
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/gpu"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// How the operators launch their kernels, whose threads and elements per block these
// are: cuda/kernels.cu says the rest.
const (
	threads = 256
	perFour = 4 * threads  // elements of a block whose threads take four
	warps   = threads / 32 // of a block
)

// each launches a kernel of one thread per element of n.
func each(d *gpu.Device, kernel string, n int, parameters ...any) error {
	return d.Launch(kernel, ceil(n, threads), threads, parameters...)
}

func (add) launch(d *gpu.Device, _ *op, in []span, out span) error {
	return d.Launch("add", ceil(out.n, perFour), threads, out.Pointer, in[0].Pointer, in[1].Pointer, out.n)
}

func (relu) launch(d *gpu.Device, _ *op, in []span, out span) error {
	return d.Launch("relu", ceil(out.n, perFour), threads, out.Pointer, in[0].Pointer, out.n)
}

func (reluInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	return d.Launch("relu_input", ceil(out.n, perFour), threads, out.Pointer, in[0].Pointer, in[1].Pointer, out.n)
}

func (c concat) launch(d *gpu.Device, _ *op, in []span, out span) error {
	for i, s := range c.sizes {
		start, total := c.offset(i)
		tiles := ceil(s, perFour)
		if err := d.Launch("copy_rows", c.n*tiles, threads, out.Pointer, total, start, in[i].Pointer, s, 0, s, tiles); err != nil {
			return err
		}
	}
	return nil
}

func (c concatInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	start, total := c.offset(c.i)
	s := c.sizes[c.i]
	tiles := ceil(s, perFour)
	return d.Launch("copy_rows", c.n*tiles, threads, out.Pointer, s, 0, in[0].Pointer, total, start, s, tiles)
}

func (u upsample) launch(d *gpu.Device, _ *op, in []span, out span) error {
	tiles := ceil(u.h*u.fy*u.w*u.fx, threads)
	return d.Launch("upsample", u.planes*tiles, threads, out.Pointer, in[0].Pointer, u.h, u.w, u.fy, u.fx, tiles)
}

func (u upsampleInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	tiles := ceil(u.h*u.w, threads)
	return d.Launch("upsample_input", u.planes*tiles, threads, out.Pointer, in[0].Pointer, u.h, u.w, u.fy, u.fx, tiles)
}

func (p maxPool) launch(d *gpu.Device, _ *op, in []span, out span) error {
	tiles := ceil(p.oh*p.ow, threads)
	return d.Launch("max_pool", p.planes*tiles, threads, out.Pointer, in[0].Pointer, p.h, p.w, p.kh, p.kw, p.sh, p.sw, p.top, p.left, p.oh, p.ow, tiles)
}

func (p maxPoolInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	tiles := ceil(p.h*p.w, threads)
	return d.Launch("max_pool_input", p.planes*tiles, threads, out.Pointer, in[0].Pointer, in[1].Pointer, p.h, p.w, p.kh, p.kw, p.sh, p.sw, p.top, p.left, p.oh, p.ow, tiles)
}

// Convolutions.

// conv kernels compute tiles of so many channels and pixels.
type convTile struct {
	kernel           string
	channels, pixels int
}

// tileOf is the tile for a number of channels: what is beyond the last is lost.
func tileOf(channels int) convTile {
	switch {
	case channels <= 32:
		return convTile{"conv_32", 32, 256}
	case channels <= 64:
		return convTile{"conv_64", 64, 256}
	}
	return convTile{"conv_128", 128, 128}
}

// packed is the size of a convolution's weights as the kernels read them.
func packed(c kernel.Conv) int64 {
	channels := tileOf(c.M).channels
	return 4 * int64(max(1, c.C*c.KH*c.KW)) * int64(ceil(c.M, channels)*channels)
}

// taps are the elements of a window as the kernels read them: where each lies from the
// window's first pixel, and its row and column.
func taps(c kernel.Conv) []int32 {
	var v []int32
	for ch := range c.C {
		for ky := range c.KH {
			for kx := range c.KW {
				v = append(v, int32((ch*c.H+ky)*c.W+kx), int32(ky<<16|kx))
			}
		}
	}
	return v
}

// multiply queues y = Σ w·window + bias for weights that pack puts into place for
// tiles of so many channels, and pixels that go where place says.
func multiply(d *gpu.Device, c kernel.Conv, table, x, y, bias driver.Pointer, place [6]int, pack func(to driver.Pointer, channels int) error) error {
	tile := tileOf(c.M)
	depth, tilesM, pixels := c.C*c.KH*c.KW, ceil(c.M, tile.channels), c.OH*c.OW
	padded, count := tilesM*tile.channels, c.N*pixels
	a, err := d.Scratch(packed(c))
	if err != nil {
		return err
	}
	if depth > 0 {
		if err := pack(a, padded); err != nil {
			return err
		}
	}
	return d.Launch(tile.kernel, ceil(count, tile.pixels)*tilesM, threads, y, x, a, table, bias,
		c.M, padded, depth, c.H, c.W, c.C*c.H*c.W, c.OW, pixels, count, c.SH, c.SW, c.Top, c.Left,
		place[0], place[1], place[2], place[3], place[4], place[5], tilesM)
}

func (c conv) prepare(d *gpu.Device, o *op) error {
	_, err := o.table(d, taps(c.shape))
	return err
}

func (c conv) launch(d *gpu.Device, o *op, in []span, out span) error {
	s := c.shape
	var bias driver.Pointer
	if len(in) > 2 {
		bias = in[2].Pointer
	}
	depth := s.C * s.KH * s.KW
	return multiply(d, s, o.tables[0], in[0].Pointer, out.Pointer, bias, [6]int{1, 1, 0, 0, s.OW, s.OH * s.OW}, func(to driver.Pointer, padded int) error {
		return each(d, "pack", depth*padded, to, in[1].Pointer, s.M, depth, padded)
	})
}

func (c convInput) prepare(d *gpu.Device, o *op) error {
	for _, p := range c.shape.Parts() {
		if _, err := o.table(d, append(taps(p.Conv), 0, 0)); err != nil { // never empty
			return err
		}
	}
	return nil
}

func (c convInput) launch(d *gpu.Device, o *op, in []span, out span) error {
	s := c.shape
	for i, p := range s.Parts() {
		err := multiply(d, p.Conv, o.tables[i], in[1].Pointer, out.Pointer, 0, [6]int{p.StepY, p.StepX, p.PTop, p.PLeft, s.W, s.H * s.W}, func(to driver.Pointer, padded int) error {
			return each(d, "pack_turned", p.C*p.KH*p.KW*padded, to, in[0].Pointer, s.C, s.KH, s.KW, s.M, p.KH, p.KW, p.KY, p.KX, s.SH, s.SW, padded)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c convWeights) prepare(d *gpu.Device, o *op) error { return conv(c).prepare(d, o) }

// partial is the size of the chunks' sums.
func (c convWeights) partial() int64 {
	s := c.shape
	return 4 * int64(s.N*ceil(s.OH, kernel.ChunkRows(s.OW))) * int64(s.M*s.C*s.KH*s.KW)
}

func (c convWeights) launch(d *gpu.Device, o *op, in []span, out span) error {
	s := c.shape
	depth, pixels, chunk := s.C*s.KH*s.KW, s.OH*s.OW, kernel.ChunkRows(s.OW)*s.OW
	chunks := ceil(pixels, chunk)
	side, name := 64, "conv_weights_64"
	if s.M <= 32 || depth <= 32 {
		side, name = 32, "conv_weights_32"
	}
	tilesM, tilesD := ceil(s.M, side), ceil(depth, side)
	partial, err := d.Scratch(c.partial())
	if err != nil {
		return err
	}
	if err := d.Launch(name, s.N*chunks*tilesM*tilesD, side*side/8, partial, in[0].Pointer, in[1].Pointer, o.tables[0],
		s.M, depth, s.H, s.W, s.C*s.H*s.W, s.OW, pixels, s.SH, s.SW, s.Top, s.Left, chunk, chunks, tilesM, tilesD); err != nil {
		return err
	}
	return each(d, "add_chunks", out.n, out.Pointer, partial, s.N*chunks, out.n)
}

func (c convBias) launch(d *gpu.Device, _ *op, in []span, out span) error {
	s := c.shape
	k := channels{s.N, s.M, s.OH * s.OW}
	partial, err := d.Scratch(k.bytes())
	if err != nil {
		return err
	}
	if err := k.sums(d, "sum", partial, in[0].Pointer); err != nil {
		return err
	}
	return k.perChannel(d, "channel_sums", out.Pointer, partial, s.M, k.n*k.pieces())
}

// channels are n images of c channels, whose sums are taken.
type channels struct{ n, c, pixels int }

func (k channels) pieces() int    { return ceil(k.pixels, kernel.Piece) }           // of a plane
func (k channels) bytes() int64   { return 4 * int64(k.n*k.c) * int64(k.pieces()) } // of the sums of pieces
func (k channels) tiles() int     { return ceil(k.pixels, perFour) }                // of a plane
func (k channels) count() float64 { return float64(k.n * k.pixels) }

// sums queues a kernel that sums pieces.
func (k channels) sums(d *gpu.Device, kernel string, parameters ...any) error {
	return d.Launch(kernel, ceil(k.n*k.c*k.pieces(), warps), threads, append(parameters, k.n, k.c, k.pixels, k.pieces())...)
}

// perChannel queues a kernel of a warp per channel.
func (k channels) perChannel(d *gpu.Device, kernel string, parameters ...any) error {
	return d.Launch(kernel, ceil(k.c, warps), threads, parameters...)
}

// planes queues a kernel of blocks of 1024 pixels.
func (k channels) planes(d *gpu.Device, kernel string, parameters ...any) error {
	return d.Launch(kernel, k.n*k.c*k.tiles(), threads, append(parameters, k.c, k.pixels, k.tiles())...)
}

// deviceStatistics are a batch's mean and variance per channel, in float64.
type deviceStatistics struct{ mean, variance driver.Pointer }

func (b *batchNorm) prepare(d *gpu.Device, o *op) error {
	mean, err := o.table(d, make([]int32, 2*b.c))
	if err != nil {
		return err
	}
	variance, err := o.table(d, make([]int32, 2*b.c))
	b.batch.device = deviceStatistics{mean, variance}
	return err
}

func (b *batchNorm) channels() channels { return channels{b.n, b.c, b.pixels} }

func (b *batchNorm) launch(d *gpu.Device, _ *op, in []span, out span) error {
	k, s, x := b.channels(), b.batch.device, in[0].Pointer
	at, err := scratch(d, k.bytes(), 8*int64(b.c))
	if err != nil {
		return err
	}
	partial, affine, pieces := at[0], at[1], k.n*k.pieces()
	if err := k.sums(d, "sum", partial, x); err != nil {
		return err
	}
	if err := k.perChannel(d, "norm_mean", s.mean, partial, k.c, pieces, k.count()); err != nil {
		return err
	}
	if err := k.sums(d, "sum_squares", partial, x, s.mean); err != nil {
		return err
	}
	if err := k.perChannel(d, "norm_variance", s.variance, affine, partial, s.mean, in[1].Pointer, in[2].Pointer, b.epsilon, k.c, pieces, k.count()); err != nil {
		return err
	}
	return k.planes(d, "norm_affine", out.Pointer, x, affine, flag(b.relu))
}

func (s *batchNormSums) launch(d *gpu.Device, _ *op, in []span, out span) error {
	b := (*batchNorm)(s)
	k, of := b.channels(), b.batch.device
	partial, err := d.Scratch(2 * k.bytes())
	if err != nil {
		return err
	}
	if err := k.sums(d, "sum_products", partial, in[0].Pointer, in[1].Pointer, in[2].Pointer, of.mean, flag(b.relu)); err != nil {
		return err
	}
	return k.perChannel(d, "norm_sums", out.Pointer, partial, of.mean, of.variance, b.epsilon, k.c, k.n*k.pieces())
}

func (r batchNormRow) launch(d *gpu.Device, _ *op, in []span, out span) error {
	return d.Launch("copy_rows", ceil(out.n, perFour), threads, out.Pointer, out.n, 0, in[0].Pointer, in[0].n, int(r)*out.n, out.n, ceil(out.n, perFour))
}

func (s *batchNormInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	b := (*batchNorm)(s)
	k, of := b.channels(), b.batch.device
	kpq, err := d.Scratch(3 * 4 * int64(b.c))
	if err != nil {
		return err
	}
	if err := each(d, "norm_combination", k.c, kpq, in[3].Pointer, in[4].Pointer, of.mean, of.variance, b.epsilon, k.c, k.count()); err != nil {
		return err
	}
	return k.planes(d, "norm_input", out.Pointer, in[0].Pointer, in[1].Pointer, in[2].Pointer, kpq, flag(b.relu))
}

func (b batchNormInference) launch(d *gpu.Device, _ *op, in []span, out span) error {
	k := channels{b.n, b.c, b.pixels}
	affine, err := d.Scratch(8 * int64(b.c))
	if err != nil {
		return err
	}
	if err := each(d, "norm_inference", k.c, affine, in[1].Pointer, in[2].Pointer, in[3].Pointer, in[4].Pointer, b.epsilon, k.c); err != nil {
		return err
	}
	return k.planes(d, "norm_affine", out.Pointer, in[0].Pointer, affine, flag(b.relu))
}

// running moves a BatchNormalization's running statistics.
func (n norm) running(d *gpu.Device, mean, variance span) error {
	s := n.batch.device
	return each(d, "norm_running", mean.n, mean.Pointer, variance.Pointer, s.mean, s.variance, n.momentum, 1-n.momentum, mean.n, float64(n.batch.count))
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Softmax and loss.

func (s softmax) tiles() int { return ceil(s.pixels, threads) } // of an image

func (s softmax) launch(d *gpu.Device, _ *op, in []span, out span) error {
	return d.Launch("softmax", s.n*s.tiles(), threads, out.Pointer, in[0].Pointer, s.k, s.pixels, s.tiles())
}

func (s softmaxInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	f := softmax(s)
	return d.Launch("softmax_input", s.n*f.tiles(), threads, out.Pointer, in[0].Pointer, in[1].Pointer, s.k, s.pixels, f.tiles())
}

// imageLosses queues the losses of images, which done fills in once what is queued has
// run.
func (s softmax) imageLosses(d *gpu.Device, z, labels driver.Pointer) (done func() []float64, err error) {
	pieces := ceil(s.pixels, kernel.Piece)
	sums := make([]float64, s.n*pieces)
	at, err := d.Scratch(8 * int64(len(sums)))
	if err != nil {
		return nil, err
	}
	if err := d.Launch("cross_entropy", ceil(len(sums), warps), threads, at, z, labels, s.k, s.pixels, pieces, len(sums)); err != nil {
		return nil, err
	}
	return func() []float64 {
		losses := make([]float64, s.n)
		for n := range losses {
			for _, v := range sums[n*pieces:][:pieces] {
				losses[n] += v
			}
			losses[n] /= float64(s.pixels)
		}
		return losses
	}, d.Download(gpu.Bytes(sums), at)
}

func (l crossEntropy) launch(d *gpu.Device, o *op, in []span, _ span) error {
	losses, err := l.imageLosses(d, in[0].Pointer, in[1].Pointer)
	x := o.b.exec
	x.after = append(x.after, func() { *l.value = meanLoss(losses()) })
	return err
}

func (l crossEntropyInput) launch(d *gpu.Device, _ *op, in []span, out span) error {
	share := float64(in[2].scalar) / float64(l.n*l.pixels)
	return d.Launch("cross_entropy_input", l.n*l.tiles(), threads, out.Pointer, in[0].Pointer, in[1].Pointer, l.k, l.pixels, share, l.tiles())
}

// launch takes an optimiser step of one parameter.
func (a *adam) launch(d *gpu.Device, w, m, v, g span) error {
	size, root2 := a.corrected()
	return each(d, "adam", w.n, w.Pointer, m.Pointer, v.Pointer, g.Pointer, float32(size), float32(root2),
		float32(1-a.Beta1), float32(a.Beta2), float32(1-a.Beta2), float32(a.Epsilon), w.n)
}

// scratch is the most memory that an operator of the plan takes while it runs.
func (p *plan) scratch() (bytes int64) {
	for _, o := range p.ops {
		n := int64(0)
		switch a := o.arithmetic.(type) {
		case conv:
			n = packed(a.shape)
		case convInput:
			for _, part := range a.shape.Parts() {
				n = max(n, packed(part.Conv))
			}
		case convWeights:
			n = a.partial()
		case *batchNorm:
			n = a.channels().bytes() + 8*int64(a.c)
		case *batchNormSums:
			n = 2 * (*batchNorm)(a).channels().bytes()
		}
		bytes = max(bytes, n)
	}
	return bytes
}
