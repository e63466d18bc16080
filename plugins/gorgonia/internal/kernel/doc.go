// Package kernel computes two-dimensional convolutions, their derivatives and sums
// over pixels in float32 on the CPU, for the Gorgonia backend's own operators.
//
// Gorgonia's Conv2d materialises im2col for the whole batch and multiplies it
// with gonum's Sgemm, which has SSE kernels only; that costs 12 to 15 times a
// PyTorch step. Here a convolution packs sixteen output pixels at a time
// straight from the (zero-padded) image and multiplies the strip with a
// register-blocked AVX2 kernel; the gradient of the weights takes dot products
// of image rows where they lie. Every kernel in assembly has a portable twin.
//
// The arithmetic is that of plugins/gorgonia/numerics.md, to the bit, on every
// processor: each output element is one chain of fused multiply-adds whose order
// depends on the problem alone, which the portable twins form without such an
// instruction (fma). So results depend neither on the number of workers nor on
// which other images share the batch, and CUDA kernels can give them too.
package kernel
