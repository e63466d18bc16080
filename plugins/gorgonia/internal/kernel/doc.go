// Package kernel computes two-dimensional convolutions and their derivatives
// in float32 on the CPU, for the Gorgonia backend's own operators.
//
// Gorgonia's Conv2d materialises im2col for the whole batch and multiplies it
// with gonum's Sgemm, which has SSE kernels only; that costs 12 to 15 times a
// PyTorch step. Here a convolution packs sixteen output pixels at a time
// straight from the (zero-padded) image and multiplies the strip with a
// register-blocked AVX2 kernel; the gradient of the weights takes dot products
// of image rows where they lie. Both kernels have a portable twin.
//
// Every output element is one chain of operations whose order depends on the
// problem alone, so results do not depend on the number of workers or on which
// other images share the batch.
package kernel
