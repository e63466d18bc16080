// Package fast executes and trains networks of the U-Net family on the CPU,
// several times faster than PyTorch and with the same bits everywhere.
//
// Compile recognises the graph by pattern: convolutions and 2×2 pooling are the
// only operators that write memory. Normalisation, ReLU, upsampling,
// concatenation and residual sums are part of how a convolution reads its input
// or writes its output. What it does not recognise wraps backend.ErrUnsupported.
//
// # Layout
//
// A tensor is [N][C/8][H][W][8]: one AVX2 register is eight channels of a pixel
// (AVX-512 takes two tiles, or sixteen columns of a product, at once), channels are
// padded with zeros to a multiple of eight, and a concatenation is
// a list of blocks. What is stored is always the output of a convolution, before
// its normalisation. Weights, gradients and moments share one packed layout,
// [K/8][C][kH·kW][8], so that the optimiser is one pass over four arrays.
//
// # How a convolution runs
//
// A task takes a rectangle of an image, which stays in the caches from staging
// to statistics:
//
//   - stage: rows of eight channels are normalised, clipped by the ReLU and
//     padded with zeros while they are copied to the first-level cache;
//   - transform: tiles go to the points of Winograd's algorithm;
//   - multiply: one matrix product per point, 6×16 accumulators in registers,
//     16×16 with AVX-512;
//   - transform back; then add the residual and sum up the statistics of the
//     next normalisation, or, in the backward pass, mask by the ReLU and sum up
//     the gradients of scale and shift.
//
// Where images are small and weights many (down 3, up 1), panels of output
// channels are the tasks instead, each transforming its own weights in its own
// cache, over the transformed tiles of the whole batch.
//
// 3×3 convolutions of stride 1, 92 % of the network's work, run as F(2×2,3×3)
// forward and for the data gradient (4 multiplications for 9) and as
// F(4×4,3×3) for the weight gradient (36 for 144). F(4×4) forward would be
// faster still, but its rounding errors are three times those of a direct
// convolution and pass through every layer that follows: in an emulation on a few
// small networks gradients were then two to four times further from float64 than
// PyTorch's own (median), against 1.0 as it is. In the weight gradient the error
// stays where it is, and is lost in that of the sum over pixels.
//
// Measured per layer (TestErrorPerLayer, width 16): outputs are 0.89 to 1.06
// times as far from float64 as those of plain float32 loops, weight gradients
// 0.59 to 1.17 times.
//
// The transform of a nearest-neighbour upsampled image vanishes at the point −1
// (package winograd), so an upsampled input is read at its own resolution and
// costs 9 products of 16, or 25 of 36; its data gradient comes out at that
// resolution too.
//
// 7×7, 1×1 and strided convolutions are direct: products over staged rows. So are
// 3×3 convolutions of at most eight channels to eight, where transforms take
// longer than the multiplications they save; with an upsampled input they use
// 2×2 sums of taps for each of four phases (upsampled.go). The head works in
// place, and the loss of two classes on four pixels at a time.
//
// # Determinism
//
// Every number is one chain of roundings that depends on the problem only: an
// element of a product is one chain of fused multiply-adds over input channels
// (over tiles for a weight gradient); statistics are summed in float32 within
// the rectangle that a task stages, whose size follows from the layer, and in
// float64 over rectangles in order. Threads take tasks in any order and write
// disjoint memory. The choice between the two orders of loops changes no chain.
//
// # Memory
//
// A program (build.go) lists the phases of one kind of call for one size of
// batch. Each buffer lives from its first phase to its last and gets a place in
// one arena, so that gradients reuse the room of activations that are done
// with; running a program allocates nothing. At width 64, 128×128, batch 16 the
// process peaks at 0.56 of PyTorch's resident size (`just bench train`).
//
// # Where the time goes
//
// One thread of a Zen 4 core held to AVX2, 91.2 GFLOPS by package kernel's
// loop of multiply-adds; width 64, 64×64, batch 16; milliseconds and effective
// GFLOPS (of the direct convolution) over the peak, by `refocus bench train
// --threads 1 --layers`. The times are measured; what limits a layer is reasoned
// from its shape and from single profiles:
//
//	layers                  forward      data gradient  weight gradient  limit
//	init 7×7                 6.6  0.69      –             7.1  0.63      one input channel: 49 deep
//	down 1 3×3 s2            8.7  0.76     9.4  0.71      8.1  0.82      backward: short products, one per tap
//	down 2 3×3 s2            8.2  0.81     9.3  0.71      8.0  0.83      same
//	down 3 3×3 s2            8.6  0.77    11    0.58     11    0.58      same, 4 pixels: two thirds of a register block
//	shortcuts 1×1 s2 (3)     4.0  0.55      with 3×3      4.1  0.54      staging of pixels that are skipped
//	down 1 3×3 (3)          24    1.64    24    1.68     18    2.22      F(2): 2.25 less 11 % transforms, 14 % cache misses
//	down 2 3×3 (3)          23    1.75    24    1.68     17    2.36      same; F(4): 4 less transforms of weights
//	down 3 3×3 (3)          26    1.55    29    1.38     20    2.01      weights: 9 MB per layer for 64 tiles
//	up 1 conv 1             20    1.99    19    2.08     19    2.06      same; upsampled channels 4 (F(2)), 5.8 (F(4))
//	up 2 conv 1             17    2.37    17    2.39     13    3.04      products
//	up 3 conv 1             17    2.30    17    2.34     14    2.74      products
//	up 4 conv 1             12    2.25    13    2.12     15    1.73      transforms: 64 channels
//	up 1–3 conv 2           24    1.66    25    1.61     20    1.97      products, cache misses
//	up 4 conv 2             11    1.24    14    0.98     11    1.21      transforms: 32 channels
//	head, loss               1.2    –      0.6    –       1.3    –       memory
//	normalisation            1.4           5.0                           memory
//	all                    210    1.64   210    1.61    188    1.84
//
// Together 622 ms with 8 ms of Adam (memory), of which the products alone would
// take 390 by their number. What remains to be had at this width is F(2×4) for
// the data gradient (a quarter fewer products, gradients 1.2 times as far from
// float64 as PyTorch's) and a third of the transforms by staging gradients
// straight from their affine map. At width 16 (54 ms; products 24) the rest are
// transforms and direct convolutions of few channels, at 0.6 to 0.8 of the peak.
package fast
