// The operators that cuDNN has not, or not with the semantics that the CPU
// operators and PyTorch share. Every thread computes one output element; there
// is no shared memory and no atomic operation, so results are reproducible and
// the same source runs as C++ in the stand-in library (standin.cc).
//
// kernels.ptx is compiled from this file by ptx.py. Scalars are 64 bits wide
// because gorgonia.org/cu copies 8 bytes per kernel parameter.

typedef long long i64;

#ifndef GLOBAL
#define GLOBAL extern "C" __global__ void
#endif
// i is this thread's element of n.
#define ELEMENT                                          \
	i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; \
	if (i >= n)                                          \
		return;

GLOBAL add(float *out, const float *a, const float *b, i64 n) {
	ELEMENT
	out[i] = a[i] + b[i];
}

// NaN stays NaN.
GLOBAL relu(float *y, const float *x, i64 n) {
	ELEMENT
	y[i] = x[i] < 0 ? 0 : x[i];
}

GLOBAL relu_input(float *dx, const float *y, const float *dy, i64 n) {
	ELEMENT
	dx[i] = y[i] > 0 ? dy[i] : 0;
}

// n outputs of planes of h×w pixels, each repeated fy×fx times.
GLOBAL upsample(float *y, const float *x, i64 h, i64 w, i64 fy, i64 fx, i64 n) {
	ELEMENT
	i64 ow = w * fx, oh = h * fy;
	i64 plane = i / (oh * ow), row = i / ow % oh, column = i % ow;
	y[i] = x[(plane * h + row / fy) * w + column / fx];
}

// n inputs.
GLOBAL upsample_input(float *dx, const float *dy, i64 h, i64 w, i64 fy, i64 fx, i64 n) {
	ELEMENT
	i64 ow = w * fx, oh = h * fy;
	i64 plane = i / (h * w), row = i / w % h, column = i % w;
	float s = 0;
	for (i64 a = 0; a < fy; a++)
		for (i64 b = 0; b < fx; b++)
			s += dy[(plane * oh + row * fy + a) * ow + column * fx + b];
	dx[i] = s;
}

// Copies rows of width values between arrays of rows of other lengths: what a
// concatenation and its gradient are.
GLOBAL copy_rows(float *to, i64 to_stride, i64 to_start, const float *from, i64 from_stride, i64 from_start, i64 width, i64 n) {
	ELEMENT
	to[i / width * to_stride + to_start + i % width] = from[i / width * from_stride + from_start + i % width];
}

// The first largest pixel of a window; NaN counts as larger than any number.
static __device__ i64 largest(const float *x, i64 h, i64 w, i64 y0, i64 x0, i64 kh, i64 kw) {
	i64 best = -1;
	for (i64 y = y0 < 0 ? 0 : y0; y < y0 + kh && y < h; y++)
		for (i64 c = x0 < 0 ? 0 : x0; c < x0 + kw && c < w; c++)
			if (best < 0 || x[y * w + c] > x[best] || x[y * w + c] != x[y * w + c])
				best = y * w + c;
	return best;
}

// n outputs.
GLOBAL max_pool(float *y, const float *x, i64 h, i64 w, i64 kh, i64 kw, i64 sh, i64 sw, i64 top, i64 left, i64 oh, i64 ow, i64 n) {
	ELEMENT
	const float *plane = x + i / (oh * ow) * h * w;
	y[i] = plane[largest(plane, h, w, i / ow % oh * sh - top, i % ow * sw - left, kh, kw)];
}

// n inputs: each asks the windows it lies in whether it is their largest pixel.
GLOBAL max_pool_input(float *dx, const float *x, const float *dy, i64 h, i64 w, i64 kh, i64 kw, i64 sh, i64 sw, i64 top, i64 left, i64 oh, i64 ow, i64 n) {
	ELEMENT
	i64 p = i / (h * w), row = i / w % h, column = i % w;
	const float *plane = x + p * h * w;
	float s = 0;
	i64 y0 = row + top - kh + 1, x0 = column + left - kw + 1;
	for (i64 oy = y0 <= 0 ? 0 : (y0 + sh - 1) / sh; oy < oh && oy * sh - top <= row; oy++)
		for (i64 ox = x0 <= 0 ? 0 : (x0 + sw - 1) / sw; ox < ow && ox * sw - left <= column; ox++)
			if (largest(plane, h, w, oy * sh - top, ox * sw - left, kh, kw) == row * w + column)
				s += dy[(p * oh + oy) * ow + ox];
	dx[i] = s;
}

// n = images·parts partial sums of the pixels' cross entropies; part j of an
// image takes its pixels j, j+parts, j+2·parts, …
GLOBAL cross_entropy(double *sums, const float *z, const float *labels, i64 k, i64 pixels, i64 parts, i64 n) {
	ELEMENT
	i64 image = i / parts;
	const float *zi = z + image * k * pixels;
	double s = 0;
	for (i64 q = i % parts; q < pixels; q += parts) {
		double top = zi[q], total = 0;
		for (i64 c = 1; c < k; c++)
			if (zi[c * pixels + q] > top)
				top = zi[c * pixels + q];
		for (i64 c = 0; c < k; c++)
			total += exp(zi[c * pixels + q] - top);
		s += log(total) - (zi[(i64)labels[image * pixels + q] * pixels + q] - top);
	}
	sums[i] = s;
}

// n pixels.
GLOBAL cross_entropy_input(float *dz, const float *z, const float *labels, i64 k, i64 pixels, double share, i64 n) {
	ELEMENT
	i64 first = i / pixels * k * pixels + i % pixels, label = (i64)labels[i];
	double top = z[first], total = 0;
	for (i64 c = 1; c < k; c++)
		if (z[first + c * pixels] > top)
			top = z[first + c * pixels];
	for (i64 c = 0; c < k; c++)
		total += exp(z[first + c * pixels] - top);
	for (i64 c = 0; c < k; c++) {
		double p = exp(z[first + c * pixels] - top) / total;
		dz[first + c * pixels] = (float)((c == label ? p - 1 : p) * share);
	}
}

// PyTorch's update; see adam.go.
GLOBAL adam(float *w, float *m, float *v, const float *g, double size, double root2, double rest1, double keep2, double rest2, double epsilon, i64 n) {
	ELEMENT
	m[i] += (g[i] - m[i]) * (float)rest1;
	v[i] = v[i] * (float)keep2 + g[i] * g[i] * (float)rest2;
	w[i] -= (float)size * (m[i] / (sqrtf(v[i]) / (float)root2 + (float)epsilon));
}

// running ← momentum·running + (1−momentum)·batch
GLOBAL blend(float *running, const float *batch, double momentum, i64 n) {
	ELEMENT
	running[i] = (float)(momentum * running[i] + (1 - momentum) * batch[i]);
}
