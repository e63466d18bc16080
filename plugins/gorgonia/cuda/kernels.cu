// The operators on NVIDIA GPUs. Their arithmetic is that of ../numerics.md, to the
// bit: every fused multiply-add is written as one, everything else is rounded by
// itself (the compiler is told not to contract), and no order depends on how many
// threads there are. There are no atomic operations.
//
// kernels.ptx is compiled from this file (compile.py). How the work is laid out, and
// what bounds it, is in ../doc.go.
//
// Arrays are dense and row-major; a plane is one channel of one image. Numbers of
// elements are below 2³¹. Blocks are numbered along x alone.

#define GLOBAL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

// ---- element by element -------------------------------------------------------

// Blocks of 256 threads take 1024 elements each, four a thread: n of a flat array,
// or, in kernels with planes, tiles of a plane. Where the count is a multiple of
// four, so is every address, and a thread moves its four at once.
#define FLAT(n)                                         \
	const int i = (blockIdx.x * 256 + threadIdx.x) * 4; \
	if (i >= (n))                                       \
		return;                                         \
	const int left = min((n)-i, 4);

template <class F> __device__ __forceinline__ void four(int left, F f) {
#pragma unroll
	for (int j = 0; j < 4; j++)
		if (j < left)
			f(j);
}

__device__ __forceinline__ float positive(float v) { return v < 0 || v == 0 ? 0.0f : v; } // NaN stays NaN

// out may be a.
GLOBAL(256, 4) add(float *out, const float *a, const float *__restrict__ b, int n) {
	FLAT(n)
	if (left == 4) {
		const float4 p = *(const float4 *)(a + i), q = *(const float4 *)(b + i);
		*(float4 *)(out + i) = make_float4(__fadd_rn(p.x, q.x), __fadd_rn(p.y, q.y), __fadd_rn(p.z, q.z), __fadd_rn(p.w, q.w));
		return;
	}
	four(left, [&](int j) { out[i + j] = __fadd_rn(a[i + j], b[i + j]); });
}

GLOBAL(256, 4) relu(float *__restrict__ y, const float *__restrict__ x, int n) {
	FLAT(n)
	if (left == 4) {
		const float4 p = *(const float4 *)(x + i);
		*(float4 *)(y + i) = make_float4(positive(p.x), positive(p.y), positive(p.z), positive(p.w));
		return;
	}
	four(left, [&](int j) { y[i + j] = positive(x[i + j]); });
}

GLOBAL(256, 4) relu_input(float *__restrict__ dx, const float *__restrict__ y, const float *__restrict__ dy, int n) {
	FLAT(n)
	if (left == 4) {
		const float4 p = *(const float4 *)(y + i), q = *(const float4 *)(dy + i);
		*(float4 *)(dx + i) = make_float4(p.x > 0 ? q.x : 0, p.y > 0 ? q.y : 0, p.z > 0 ? q.z : 0, p.w > 0 ? q.w : 0);
		return;
	}
	four(left, [&](int j) { dx[i + j] = y[i + j] > 0 ? dy[i + j] : 0; });
}

// Rows of width values between arrays of rows of other lengths: a concatenation, and
// its gradient. tiles blocks to a row.
GLOBAL(256, 4) copy_rows(float *__restrict__ to, int toStride, int toStart, const float *__restrict__ from, int fromStride, int fromStart, int width, int tiles) {
	const int row = blockIdx.x / tiles, i = (blockIdx.x - row * tiles) * 1024 + threadIdx.x * 4;
	if (i >= width)
		return;
	float *t = to + row * toStride + toStart + i;
	const float *f = from + row * fromStride + fromStart + i;
	if (((toStride | toStart | fromStride | fromStart | width) & 3) == 0) {
		*(float4 *)t = *(const float4 *)f;
		return;
	}
	four(min(width - i, 4), [&](int j) { t[j] = f[j]; });
}

// PyTorch's update.
GLOBAL(256, 4) adam(float *__restrict__ w, float *__restrict__ m, float *__restrict__ v, const float *__restrict__ g, float size, float root2, float rest1, float keep2, float rest2, float epsilon, int n) {
	const int i = blockIdx.x * 256 + threadIdx.x;
	if (i >= n)
		return;
	const float d = g[i];
	const float first = __fadd_rn(m[i], __fmul_rn(__fsub_rn(d, m[i]), rest1));
	const float second = __fadd_rn(__fmul_rn(v[i], keep2), __fmul_rn(__fmul_rn(d, d), rest2));
	m[i] = first;
	v[i] = second;
	const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), root2), epsilon);
	w[i] = __fsub_rn(w[i], __fmul_rn(size, __fdiv_rn(first, root)));
}

// ---- pooling and nearest neighbours -------------------------------------------

// A thread's pixel: tiles blocks to a plane of h×w.
#define PIXEL(h, w)                                                                     \
	const int plane = blockIdx.x / tiles;                                               \
	const unsigned pixel = (blockIdx.x - plane * tiles) * 256 + threadIdx.x;            \
	if (pixel >= (unsigned)((h) * (w)))                                                 \
		return;                                                                         \
	const int row = pixel / (unsigned)(w), column = pixel - row * (w);

// Planes of h×w pixels, each repeated fy×fx times.
GLOBAL(256, 4) upsample(float *__restrict__ y, const float *__restrict__ x, int h, int w, int fy, int fx, int tiles) {
	PIXEL(h * fy, w * fx)
	y[plane * h * fy * w * fx + pixel] = x[(plane * h + (unsigned)row / (unsigned)fy) * w + (unsigned)column / (unsigned)fx];
}

GLOBAL(256, 4) upsample_input(float *__restrict__ dx, const float *__restrict__ dy, int h, int w, int fy, int fx, int tiles) {
	PIXEL(h, w)
	const float *first = dy + ((plane * h + row) * fy * w + column) * fx;
	float s = 0;
	for (int a = 0; a < fy; a++)
		for (int b = 0; b < fx; b++)
			s = __fadd_rn(s, first[a * w * fx + b]);
	dx[plane * h * w + pixel] = s;
}

// The first largest pixel of a window; NaN counts as larger than any number.
__device__ __forceinline__ int largest(const float *__restrict__ x, int h, int w, int y0, int x0, int kh, int kw) {
	int best = -1;
	float top = 0;
	for (int y = max(y0, 0); y < min(y0 + kh, h); y++)
		for (int c = max(x0, 0); c < min(x0 + kw, w); c++) {
			const float v = x[y * w + c];
			if (best < 0 || v > top || v != v) {
				best = y * w + c;
				top = v;
			}
		}
	return best;
}

GLOBAL(256, 4) max_pool(float *__restrict__ y, const float *__restrict__ x, int h, int w, int kh, int kw, int sh, int sw, int top, int left, int oh, int ow, int tiles) {
	PIXEL(oh, ow)
	const float *p = x + plane * h * w;
	y[plane * oh * ow + pixel] = p[largest(p, h, w, row * sh - top, column * sw - left, kh, kw)];
}

// Each input asks the windows it lies in whether it is their largest pixel.
GLOBAL(256, 4) max_pool_input(float *__restrict__ dx, const float *__restrict__ x, const float *__restrict__ dy, int h, int w, int kh, int kw, int sh, int sw, int top, int left, int oh, int ow, int tiles) {
	PIXEL(h, w)
	const float *p = x + plane * h * w;
	const int y0 = row + top - kh + 1, x0 = column + left - kw + 1;
	const int oy0 = y0 <= 0 ? 0 : (unsigned)(y0 + sh - 1) / (unsigned)sh, ox0 = x0 <= 0 ? 0 : (unsigned)(x0 + sw - 1) / (unsigned)sw;
	float s = 0;
	for (int oy = oy0; oy < oh && oy * sh - top <= row; oy++)
		for (int ox = ox0; ox < ow && ox * sw - left <= column; ox++)
			if (largest(p, h, w, oy * sh - top, ox * sw - left, kh, kw) == (int)pixel)
				s = __fadd_rn(s, dy[(plane * oh + oy) * ow + ox]);
	dx[plane * h * w + pixel] = s;
}

// ---- sums over channels -------------------------------------------------------

// A piece is 1024 pixels of a plane, a warp's; the last of a plane may be shorter.
// Pieces are numbered through each channel, image by image: partial holds C×N×pieces.
#define PIECE 1024

struct Piece {
	int c, index, at, count; // of partial, of the first pixel, of pixels
	bool any;
};

__device__ __forceinline__ Piece pieceOf(int n, int c, int pixels, int pieces) {
	const int warp = blockIdx.x * 8 + threadIdx.x / 32;
	Piece p;
	p.any = warp < n * c * pieces;
	const int plane = warp / pieces, j = warp - plane * pieces, image = plane / c;
	p.c = plane - image * c;
	p.index = (p.c * n + image) * pieces + j;
	p.at = plane * pixels + j * PIECE;
	p.count = min(pixels - j * PIECE, PIECE);
	return p;
}

// The sum of a warp's 32 lanes in lane 0: 16 upon 16, 8 upon 8, …
__device__ __forceinline__ float fold(float s) {
#pragma unroll
	for (int half = 16; half > 0; half /= 2)
		s = __fadd_rn(s, __shfl_down_sync(0xffffffff, s, half));
	return s;
}

__device__ __forceinline__ double fold(double s) {
#pragma unroll
	for (int half = 16; half > 0; half /= 2)
		s = __dadd_rn(s, __shfl_down_sync(0xffffffff, s, half));
	return s;
}

GLOBAL(256, 4) sum(float *__restrict__ partial, const float *__restrict__ x, int n, int c, int pixels, int pieces) {
	const Piece p = pieceOf(n, c, pixels, pieces);
	if (!p.any)
		return;
	const float *v = x + p.at;
	float s = 0;
#pragma unroll 8
	for (int i = threadIdx.x % 32; i < p.count; i += 32)
		s = __fadd_rn(s, v[i]);
	s = fold(s);
	if (threadIdx.x % 32 == 0)
		partial[p.index] = s;
}

// Σ (x − mean)²
GLOBAL(256, 4) sum_squares(float *__restrict__ partial, const float *__restrict__ x, const double *__restrict__ mean, int n, int c, int pixels, int pieces) {
	const Piece p = pieceOf(n, c, pixels, pieces);
	if (!p.any)
		return;
	const float *v = x + p.at, m = __double2float_rn(mean[p.c]);
	float s = 0;
#pragma unroll 8
	for (int i = threadIdx.x % 32; i < p.count; i += 32) {
		const float d = __fsub_rn(v[i], m);
		s = __fmaf_rn(d, d, s);
	}
	s = fold(s);
	if (threadIdx.x % 32 == 0)
		partial[p.index] = s;
}

// Σ dy·(x − mean), then Σ dy, with dy taken as 0 where the ReLU cut y off.
GLOBAL(256, 4) sum_products(float *__restrict__ partial, const float *__restrict__ x, const float *__restrict__ y, const float *__restrict__ dy, const double *__restrict__ mean, int relued, int n, int c, int pixels, int pieces) {
	const Piece p = pieceOf(n, c, pixels, pieces);
	if (!p.any)
		return;
	const float m = __double2float_rn(mean[p.c]);
	float dot = 0, total = 0;
#pragma unroll 4
	for (int i = p.at + threadIdx.x % 32; i < p.at + p.count; i += 32) {
		float d = dy[i];
		if (relued && !(y[i] > 0))
			d = 0;
		dot = __fmaf_rn(d, __fsub_rn(x[i], m), dot);
		total = __fadd_rn(total, d);
	}
	dot = fold(dot);
	total = fold(total);
	if (threadIdx.x % 32 == 0) {
		partial[p.index] = dot;
		partial[n * c * pieces + p.index] = total;
	}
}

// The sum of a channel's pieces in lane 0: a warp to a channel, the pieces in 32 lanes.
__device__ __forceinline__ double pieceSum(const float *partial, int pieces) {
	double s = 0;
	for (int i = threadIdx.x % 32; i < pieces; i += 32)
		s = __dadd_rn(s, (double)partial[i]);
	return fold(s);
}

#define CHANNEL(c)                                            \
	const int channel = blockIdx.x * 8 + threadIdx.x / 32; \
	if (channel >= (c))                                       \
		return;                                               \
	const bool first = threadIdx.x % 32 == 0;

// pieces and count are a channel's, over all images.
GLOBAL(256, 4) norm_mean(double *__restrict__ mean, const float *__restrict__ partial, int c, int pieces, double count) {
	CHANNEL(c)
	const double s = pieceSum(partial + channel * pieces, pieces);
	if (first)
		mean[channel] = __ddiv_rn(s, count);
}

__device__ __forceinline__ double inverse(double variance, double epsilon) {
	return __ddiv_rn(1, __dsqrt_rn(__dadd_rn(variance, epsilon)));
}

// y = k·x + t: the coefficients from mean and variance.
__device__ __forceinline__ float2 affineOf(double scale, double shift, double mean, double variance, double epsilon) {
	const double k = __ddiv_rn(scale, __dsqrt_rn(__dadd_rn(variance, epsilon)));
	return make_float2(__double2float_rn(k), __double2float_rn(__dsub_rn(shift, __dmul_rn(mean, k))));
}

GLOBAL(256, 4) norm_variance(double *__restrict__ variance, float2 *__restrict__ affine, const float *__restrict__ partial, const double *__restrict__ mean, const float *__restrict__ scale, const float *__restrict__ shift, double epsilon, int c, int pieces, double count) {
	CHANNEL(c)
	const double s = pieceSum(partial + channel * pieces, pieces);
	if (!first)
		return;
	const double m = mean[channel], d = __dsub_rn(m, (double)__double2float_rn(m));
	double v = __dsub_rn(__ddiv_rn(s, count), __dmul_rn(d, d));
	v = v < 0 || v == 0 ? 0 : v;
	variance[channel] = v;
	affine[channel] = affineOf(scale[channel], shift[channel], m, v, epsilon);
}

GLOBAL(256, 4) norm_inference(float2 *__restrict__ affine, const float *__restrict__ scale, const float *__restrict__ shift, const float *__restrict__ mean, const float *__restrict__ variance, double epsilon, int c) {
	const int i = blockIdx.x * 256 + threadIdx.x;
	if (i < c)
		affine[i] = affineOf(scale[i], shift[i], mean[i], variance[i], epsilon);
}

// y = k·x + t, then its positive part if relued. tiles blocks of 1024 to a plane.
GLOBAL(256, 4) norm_affine(float *__restrict__ y, const float *__restrict__ x, const float2 *__restrict__ affine, int relued, int c, int pixels, int tiles) {
	const int plane = blockIdx.x / tiles, i = (blockIdx.x - plane * tiles) * 1024 + threadIdx.x * 4;
	if (i >= pixels)
		return;
	const float2 a = affine[plane % c];
	const int at = plane * pixels + i;
	auto f = [&](float v) {
		v = __fadd_rn(__fmul_rn(a.x, v), a.y);
		return relued ? positive(v) : v;
	};
	if ((pixels & 3) == 0) {
		const float4 p = *(const float4 *)(x + at);
		*(float4 *)(y + at) = make_float4(f(p.x), f(p.y), f(p.z), f(p.w));
		return;
	}
	four(min(pixels - i, 4), [&](int j) { y[at + j] = f(x[at + j]); });
}

// The gradients for scale (first row of sums) and shift (second).
GLOBAL(256, 4) norm_sums(float *__restrict__ sums, const float *__restrict__ partial, const double *__restrict__ mean, const double *__restrict__ variance, double epsilon, int c, int pieces) {
	CHANNEL(c)
	double dot = pieceSum(partial + channel * pieces, pieces);
	const double total = pieceSum(partial + (c + channel) * pieces, pieces);
	if (!first)
		return;
	const double m = mean[channel];
	dot = __dsub_rn(dot, __dmul_rn(__dsub_rn(m, (double)__double2float_rn(m)), total));
	sums[channel] = __double2float_rn(__ddiv_rn(dot, __dsqrt_rn(__dadd_rn(variance[channel], epsilon))));
	sums[c + channel] = __double2float_rn(total);
}

// dx = k·dy + p·x + q: the coefficients.
GLOBAL(256, 4) norm_combination(float *__restrict__ kpq, const float *__restrict__ scale, const float *__restrict__ sums, const double *__restrict__ mean, const double *__restrict__ variance, double epsilon, int c, double count) {
	const int i = blockIdx.x * 256 + threadIdx.x;
	if (i >= c)
		return;
	const double inv = inverse(variance[i], epsilon), k = __dmul_rn(scale[i], inv);
	const double p = __ddiv_rn(__dmul_rn(__dmul_rn(-k, inv), sums[i]), count);
	const double q = __dsub_rn(__ddiv_rn(__dmul_rn(-k, sums[c + i]), count), __dmul_rn(p, mean[i]));
	kpq[i] = __double2float_rn(k);
	kpq[c + i] = __double2float_rn(p);
	kpq[2 * c + i] = __double2float_rn(q);
}

GLOBAL(256, 4) norm_input(float *__restrict__ dx, const float *__restrict__ x, const float *__restrict__ y, const float *__restrict__ dy, const float *__restrict__ kpq, int relued, int c, int pixels, int tiles) {
	const int plane = blockIdx.x / tiles, i = (blockIdx.x - plane * tiles) * 1024 + threadIdx.x * 4;
	if (i >= pixels)
		return;
	const int channel = plane % c, at = plane * pixels + i;
	const float k = kpq[channel], p = kpq[c + channel], q = kpq[2 * c + channel];
	auto f = [&](float x, float y, float d) {
		if (relued && !(y > 0))
			d = 0;
		return __fadd_rn(__fadd_rn(__fmul_rn(k, d), __fmul_rn(p, x)), q);
	};
	if ((pixels & 3) == 0) {
		const float4 a = *(const float4 *)(x + at), b = *(const float4 *)(y + at), d = *(const float4 *)(dy + at);
		*(float4 *)(dx + at) = make_float4(f(a.x, b.x, d.x), f(a.y, b.y, d.y), f(a.z, b.z, d.z), f(a.w, b.w, d.w));
		return;
	}
	four(min(pixels - i, 4), [&](int j) { dx[at + j] = f(x[at + j], y[at + j], dy[at + j]); });
}

// The running statistics of a step: momentum·running + (1−momentum)·batch, of which
// the variance is the unbiased one.
GLOBAL(256, 4) norm_running(float *__restrict__ mean, float *__restrict__ variance, const double *__restrict__ batchMean, const double *__restrict__ batchVariance, double momentum, double rest, int c, double count) {
	const int i = blockIdx.x * 256 + threadIdx.x;
	if (i >= c)
		return;
	mean[i] = __double2float_rn(__dadd_rn(__dmul_rn(momentum, mean[i]), __dmul_rn(rest, batchMean[i])));
	const double unbiased = __ddiv_rn(__dmul_rn(__dmul_rn(rest, batchVariance[i]), count), __dsub_rn(count, 1));
	variance[i] = __double2float_rn(__dadd_rn(__dmul_rn(momentum, variance[i]), unbiased));
}

// A bias' gradient.
GLOBAL(256, 4) channel_sums(float *__restrict__ out, const float *__restrict__ partial, int c, int pieces) {
	CHANNEL(c)
	const double s = pieceSum(partial + channel * pieces, pieces);
	if (first)
		out[channel] = __double2float_rn(s);
}

// ---- softmax and loss, in float64 ----------------------------------------------

// eˣ of x ≤ 0: 2ᵏ times the Taylor series of the rest, which is at most ln(2)/2.
__device__ __forceinline__ double exponential(double x) {
	if (!(x >= -700))
		return x != x ? x : 0;
	const double shift = 6755399441055744.0; // 1.5·2⁵²: adding it rounds to whole numbers
	const double t = __dadd_rn(__dmul_rn(x, 1.4426950408889634), shift), k = __dsub_rn(t, shift);
	const double r = __dsub_rn(__dsub_rn(x, __dmul_rn(k, 6.93147180369123816490e-01)), __dmul_rn(k, 1.90821492927058770002e-10));
	double p = 1.0 / 6227020800;
#define TERM(n) p = __dadd_rn(__dmul_rn(p, r), 1.0 / n);
	TERM(479001600) TERM(39916800) TERM(3628800) TERM(362880) TERM(40320) TERM(5040) TERM(720) TERM(120) TERM(24) TERM(6) TERM(2) TERM(1) TERM(1)
#undef TERM
	return __dmul_rn(p, __hiloint2double((__double2loint(t) + 1023) << 20, 0));
}

// ln v of v ≥ 1: k·ln 2 + 2·artanh((m−1)/(m+1)) with v = 2ᵏ·m, m below √2.
__device__ __forceinline__ double logarithm(double v) {
	if (!(v <= 1e300))
		return v;
	int high = __double2hiint(v), k = (high >> 20) - 1023;
	high = (high & 0xfffff) | 0x3ff00000;
	if (high >= 0x3ff6a09e) {
		high -= 1 << 20;
		k++;
	}
	const double m = __hiloint2double(high, __double2loint(v));
	const double s = __ddiv_rn(__dsub_rn(m, 1), __dadd_rn(m, 1)), z = __dmul_rn(s, s);
	double p = 1.0 / 23;
#define TERM(n) p = __dadd_rn(__dmul_rn(p, z), 1.0 / n);
	TERM(21) TERM(19) TERM(17) TERM(15) TERM(13) TERM(11) TERM(9) TERM(7) TERM(5) TERM(3) TERM(1)
#undef TERM
	const double rest = __dadd_rn(__dmul_rn(__dmul_rn(2, s), p), __dmul_rn(k, 1.90821492927058770002e-10));
	return __dadd_rn(__dmul_rn(k, 6.93147180369123816490e-01), rest);
}

__device__ __forceinline__ double largestOf(const float *__restrict__ z, int k, int pixels) {
	double top = z[0];
	for (int c = 1; c < k; c++) {
		const double v = z[c * pixels];
		if (v > top || v != v)
			top = v;
	}
	return top;
}

__device__ __forceinline__ double total(const float *__restrict__ z, int k, int pixels, double top) {
	double s = 0;
	for (int c = 0; c < k; c++)
		s = __dadd_rn(s, exponential(__dsub_rn(z[c * pixels], top)));
	return s;
}

// A thread's pixel of images of k channels; tiles blocks to an image.
#define IMAGE_PIXEL                                                          \
	const int image = blockIdx.x / tiles;                                    \
	const int pixel = (blockIdx.x - image * tiles) * 256 + threadIdx.x;      \
	if (pixel >= pixels)                                                     \
		return;                                                              \
	const int at = image * k * pixels + pixel;

GLOBAL(256, 2) softmax(float *__restrict__ y, const float *__restrict__ z, int k, int pixels, int tiles) {
	IMAGE_PIXEL
	const double top = largestOf(z + at, k, pixels), sum = total(z + at, k, pixels, top);
	for (int c = 0; c < k; c++)
		y[at + c * pixels] = __double2float_rn(__ddiv_rn(exponential(__dsub_rn(z[at + c * pixels], top)), sum));
}

GLOBAL(256, 2) softmax_input(float *__restrict__ dz, const float *__restrict__ y, const float *__restrict__ dy, int k, int pixels, int tiles) {
	IMAGE_PIXEL
	double dot = 0;
	for (int c = at; c < at + k * pixels; c += pixels)
		dot = __dadd_rn(dot, __dmul_rn(y[c], dy[c]));
	for (int c = at; c < at + k * pixels; c += pixels)
		dz[c] = __double2float_rn(__dmul_rn(y[c], __dsub_rn(dy[c], dot)));
}

// The sums of pieces of 1024 pixels, a warp's each; pieces of them to an image.
GLOBAL(256, 2) cross_entropy(double *__restrict__ sums, const float *__restrict__ z, const unsigned char *__restrict__ labels, int k, int pixels, int pieces, int n) {
	const int warp = blockIdx.x * 8 + threadIdx.x / 32;
	if (warp >= n)
		return;
	const int image = warp / pieces, j = warp - image * pieces;
	const float *zi = z + image * k * pixels;
	double s = 0;
	for (int q = j * PIECE + threadIdx.x % 32; q < min(j * PIECE + PIECE, pixels); q += 32) {
		const double top = largestOf(zi + q, k, pixels), sum = total(zi + q, k, pixels, top);
		s = __dadd_rn(s, __dsub_rn(logarithm(sum), __dsub_rn(zi[labels[image * pixels + q] * pixels + q], top)));
	}
	s = fold(s);
	if (threadIdx.x % 32 == 0)
		sums[warp] = s;
}

// (softmax − 1 at the label) · share
GLOBAL(256, 2) cross_entropy_input(float *__restrict__ dz, const float *__restrict__ z, const unsigned char *__restrict__ labels, int k, int pixels, double share, int tiles) {
	IMAGE_PIXEL
	const double top = largestOf(z + at, k, pixels), sum = total(z + at, k, pixels, top);
	const int label = labels[image * pixels + pixel];
	for (int c = 0; c < k; c++) {
		double p = __ddiv_rn(exponential(__dsub_rn(z[at + c * pixels], top)), sum);
		if (c == label)
			p = __dsub_rn(p, 1);
		dz[at + c * pixels] = __double2float_rn(__dmul_rn(p, share));
	}
}

// ---- convolutions ---------------------------------------------------------------

// Weights as conv reads them: a[depth][padded], row d holding every output channel's
// weight for element d of a window, and zeros up to a whole tile of channels.
GLOBAL(256, 4) pack(float *__restrict__ a, const float *__restrict__ w, int m, int depth, int padded) {
	const int i = blockIdx.x * 256 + threadIdx.x, d = i / padded, r = i - d * padded;
	if (d < depth)
		a[i] = r < m ? w[r * depth + d] : 0;
}

// The same for the gradient of the images: its channels are the images', a window
// holds m channels of the output with ty×tx taps, turned round: from (ky, kx) on
// backwards in steps of the stride.
GLOBAL(256, 4) pack_turned(float *__restrict__ a, const float *__restrict__ w, int c, int kh, int kw, int m, int ty, int tx, int ky, int kx, int sh, int sw, int padded) {
	const int i = blockIdx.x * 256 + threadIdx.x, d = i / padded, r = i - d * padded;
	if (d >= m * ty * tx)
		return;
	const int o = d / (ty * tx), t = d - o * ty * tx, y = t / tx, x = t - y * tx;
	a[i] = r < c ? w[((o * c + r) * kh + ky - y * sh) * kw + kx - x * sw] : 0;
}

// One element of a window: its offset from the window's first pixel, and its row and
// column in the window.
__device__ __forceinline__ bool inside(int tap, int y, int x, int h, int w) {
	return (unsigned)(y + (tap >> 16)) < (unsigned)h && (unsigned)(x + (tap & 0xffff)) < (unsigned)w;
}

// y[n][m][pixel] = bias[m] + Σ a[d][m]·window[d], one chain over d.
//
// A block has BM channels × BN pixels, pixels numbered through the batch; its 256
// threads have TM×8 each, in two groups of four pixels (and of four channels). Eight d
// at a time lie in shared memory, the next eight are on their way in registers.
// Output pixel (oy, ox) goes to row oy·yStepY+yTop, column ox·yStepX+yLeft of a plane
// of yw columns and yPlane pixels: the gradient of a strided convolution's images is
// computed by residues.
template <int BM, int BN, int TM>
__device__ __forceinline__ void convTile(float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ a, const int2 *__restrict__ taps, const float *__restrict__ bias,
	int m, int padded, int depth, int h, int w, int image, int ow, int pixels, int count, int sh, int sw, int top, int left,
	int yStepY, int yStepX, int yTop, int yLeft, int yw, int yPlane, int tilesM) {
	constexpr int K = 8, ROWS = BN * K / 256; // d's of a column that a thread loads
	__shared__ __align__(16) float sa[2][K][BM], sb[2][K][BN];
	const int tile = blockIdx.x / tilesM, m0 = (blockIdx.x - tile * tilesM) * BM, q0 = tile * BN;
	const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
	constexpr int WARPS_M = BM / TM / 4;
	const int tm = warp % WARPS_M * 4 * TM + lane / 8 * 4, tn = warp / WARPS_M * 64 + lane % 8 * 4;

	// What this thread loads of the images: rows first… of one column.
	const int column = thread % BN, firstRow = thread / BN * ROWS;
	const int q = q0 + column;
	const int qn = q / pixels, qr = q - qn * pixels, qy = qr / ow;
	const int wy = q < count ? qy * sh - top : -0x8000000, wx = (qr - qy * ow) * sw - left; // a pixel too many is outside
	const int base = qn * image + wy * w + wx;
	// … and of the weights: four channels of one row.
	const bool loadsA = thread < BM * K / 4;
	const int rowA = thread / (BM / 4), columnA = thread % (BM / 4) * 4;
	const float *fromA = a + rowA * padded + m0 + columnA;

	float4 nextA;
	float nextB[ROWS];
	auto load = [&](int d0) {
		nextA = make_float4(0, 0, 0, 0);
		if (loadsA && d0 + rowA < depth)
			nextA = *(const float4 *)(fromA + d0 * padded);
#pragma unroll
		for (int i = 0; i < ROWS; i++) {
			const int d = d0 + firstRow + i;
			nextB[i] = 0;
			if (d < depth) {
				const int2 tap = taps[d];
				if (inside(tap.y, wy, wx, h, w))
					nextB[i] = x[base + tap.x];
			}
		}
	};
	auto store = [&](int buffer) {
		if (loadsA)
			*(float4 *)&sa[buffer][rowA][columnA] = nextA;
#pragma unroll
		for (int i = 0; i < ROWS; i++)
			sb[buffer][firstRow + i][column] = nextB[i];
	};

	float acc[TM][8];
#pragma unroll
	for (int i = 0; i < TM; i++)
#pragma unroll
		for (int j = 0; j < 8; j++)
			acc[i][j] = 0;
	auto multiply = [&](int buffer, int k) {
		float va[TM], vb[8];
#pragma unroll
		for (int i = 0; i < TM; i += 4)
			*(float4 *)&va[i] = *(const float4 *)&sa[buffer][k][tm + i * 4];
		*(float4 *)&vb[0] = *(const float4 *)&sb[buffer][k][tn];
		*(float4 *)&vb[4] = *(const float4 *)&sb[buffer][k][tn + 32];
#pragma unroll
		for (int i = 0; i < TM; i++)
#pragma unroll
			for (int j = 0; j < 8; j++)
				acc[i][j] = __fmaf_rn(va[i], vb[j], acc[i][j]);
	};

	load(0);
	store(0);
	__syncthreads();
	int buffer = 0, d0 = 0;
	for (; d0 + K < depth; d0 += K) {
		load(d0 + K);
#pragma unroll
		for (int k = 0; k < K; k++)
			multiply(buffer, k);
		buffer ^= 1;
		store(buffer);
		__syncthreads();
	}
	for (int k = 0; k < depth - d0; k++)
		multiply(buffer, k);

	if (bias)
#pragma unroll
		for (int i = 0; i < TM; i++) {
			const int channel = m0 + tm + i / 4 * 16 + i % 4;
			const float b = channel < m ? bias[channel] : 0;
#pragma unroll
			for (int j = 0; j < 8; j++)
				acc[i][j] = __fadd_rn(acc[i][j], b);
		}
	const bool straight = yStepX == 1 && yStepY == 1 && yPlane == pixels && (pixels & 3) == 0;
#pragma unroll
	for (int half = 0; half < 2; half++) {
		const int p = q0 + tn + half * 32;
		if (straight && p < count) { // four pixels of one image
			const int n = p / pixels;
			float *to = y + n * m * yPlane + p - n * pixels;
#pragma unroll
			for (int i = 0; i < TM; i++) {
				const int channel = m0 + tm + i / 4 * 16 + i % 4;
				if (channel < m)
					*(float4 *)(to + channel * yPlane) = make_float4(acc[i][half * 4], acc[i][half * 4 + 1], acc[i][half * 4 + 2], acc[i][half * 4 + 3]);
			}
			continue;
		}
#pragma unroll
		for (int j = 0; j < 4; j++) {
			if (p + j >= count)
				continue;
			const int n = (p + j) / pixels, r = p + j - n * pixels, oy = r / ow, ox = r - oy * ow;
			float *to = y + n * m * yPlane + (oy * yStepY + yTop) * yw + ox * yStepX + yLeft;
#pragma unroll
			for (int i = 0; i < TM; i++) {
				const int channel = m0 + tm + i / 4 * 16 + i % 4;
				if (channel < m)
					to[channel * yPlane] = acc[i][half * 4 + j];
			}
		}
	}
}

#define CONV(name, BM, BN, TM)                                                                                                                      \
	GLOBAL(256, 2) name(float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ a, const int2 *__restrict__ taps, const float *__restrict__ bias, \
		int m, int padded, int depth, int h, int w, int image, int ow, int pixels, int count, int sh, int sw, int top, int left,                     \
		int yStepY, int yStepX, int yTop, int yLeft, int yw, int yPlane, int tilesM) {                                                               \
		convTile<BM, BN, TM>(y, x, a, taps, bias, m, padded, depth, h, w, image, ow, pixels, count, sh, sw, top, left, yStepY, yStepX, yTop, yLeft, yw, yPlane, tilesM); \
	}
CONV(conv_128, 128, 128, 8)
CONV(conv_64, 64, 256, 8)
CONV(conv_32, 32, 256, 4)

// The gradient of the weights: Σ dy[n][m][pixel]·window[d] over the pixels of a chunk,
// rows of one image. Pixels are dealt to eight chains, whose sums are added at the end.
//
// A block has B channels × B elements of the window; an eighth of its threads, 8×8
// products each, belongs to a chain. Sixteen pixels at a time lie in shared memory.
template <int B>
__device__ __forceinline__ void weightsTile(float *__restrict__ partial, const float *__restrict__ x, const float *__restrict__ dy, const int2 *__restrict__ taps,
	int m, int depth, int h, int w, int image, int ow, int pixels, int sh, int sw, int top, int left, int chunkPixels, int chunks, int tilesM, int tilesD) {
	constexpr int SIDE = B / 8, GROUP = SIDE * SIDE, THREADS = 8 * GROUP, P = 16, ROWS = B * P / THREADS, STRIDE = B + 4;
	__shared__ __align__(16) float shared[2 * 2 * P * STRIDE > 8 * GROUP * 8 ? 2 * 2 * P * STRIDE : 8 * GROUP * 8];
	float *const sa = shared, *const sb = shared + 2 * P * STRIDE;
	int block = blockIdx.x;
	const int tileD = block % tilesD;
	block /= tilesD;
	const int tileM = block % tilesM, chunk = block / tilesM, n = chunk / chunks;
	const int first = (chunk - n * chunks) * chunkPixels, length = min(pixels - first, chunkPixels);
	const int m0 = tileM * B, d0 = tileD * B;
	const unsigned thread = threadIdx.x;

	// This thread loads one of sixteen pixels, of ROWS channels and elements.
	const int p = thread % P, row = thread / P;
	const float *fromY = dy + (n * m + m0 + row) * pixels + first + p;
	int oy = (first + p) / ow, ox = first + p - oy * ow;
	int2 tap[ROWS];
#pragma unroll
	for (int i = 0; i < ROWS; i++) {
		const int d = d0 + row + i * (THREADS / P);
		tap[i] = d < depth ? taps[d] : make_int2(0, 0x40000000); // outside
	}
	float nextA[ROWS], nextB[ROWS];
	auto load = [&](int q) {
		const bool any = q + p < length;
		const int wy = oy * sh - top, wx = ox * sw - left, base = n * image + wy * w + wx;
#pragma unroll
		for (int i = 0; i < ROWS; i++) {
			nextA[i] = nextB[i] = 0;
			if (any && m0 + row + i * (THREADS / P) < m)
				nextA[i] = fromY[i * (THREADS / P) * pixels + q];
			if (any && inside(tap[i].y, wy, wx, h, w))
				nextB[i] = x[base + tap[i].x];
		}
		ox += P;
		while (ox >= ow) {
			ox -= ow;
			oy++;
		}
	};
	auto store = [&](int buffer) {
#pragma unroll
		for (int i = 0; i < ROWS; i++) {
			sa[(buffer * P + p) * STRIDE + row + i * (THREADS / P)] = nextA[i];
			sb[(buffer * P + p) * STRIDE + row + i * (THREADS / P)] = nextB[i];
		}
	};

	const int chain = thread / GROUP, sub = thread % GROUP, tm = sub / SIDE * 4, td = sub % SIDE * 4;
	float acc[8][8];
#pragma unroll
	for (int i = 0; i < 8; i++)
#pragma unroll
		for (int j = 0; j < 8; j++)
			acc[i][j] = 0;

	load(0);
	store(0);
	__syncthreads();
	int buffer = 0;
	for (int q = 0; q < length; q += P) {
		const bool more = q + P < length;
		if (more)
			load(q + P);
#pragma unroll
		for (int k = 0; k < P; k += 8) {
			const float *pa = sa + (buffer * P + k + chain) * STRIDE + tm, *pb = sb + (buffer * P + k + chain) * STRIDE + td;
			float va[8], vb[8];
			*(float4 *)&va[0] = *(const float4 *)pa;
			*(float4 *)&va[4] = *(const float4 *)(pa + B / 2);
			*(float4 *)&vb[0] = *(const float4 *)pb;
			*(float4 *)&vb[4] = *(const float4 *)(pb + B / 2);
#pragma unroll
			for (int i = 0; i < 8; i++)
#pragma unroll
				for (int j = 0; j < 8; j++)
					acc[i][j] = __fmaf_rn(va[i], vb[j], acc[i][j]);
		}
		buffer ^= 1;
		if (more)
			store(buffer);
		__syncthreads();
	}

	// One row of every thread's products at a time: the chains' sums side by side.
	float *const out = partial + (size_t)chunk * m * depth;
	const int of = thread / 8, oi = thread % 8; // whose product this thread adds up
	const int d = d0 + of % SIDE * 4 + oi / 4 * (B / 2) + oi % 4;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		*(float4 *)&shared[(chain * GROUP + sub) * 8] = make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
		*(float4 *)&shared[(chain * GROUP + sub) * 8 + 4] = make_float4(acc[i][4], acc[i][5], acc[i][6], acc[i][7]);
		__syncthreads();
		float s[8];
#pragma unroll
		for (int c = 0; c < 8; c++)
			s[c] = shared[c * GROUP * 8 + thread];
		const int channel = m0 + of / SIDE * 4 + i / 4 * (B / 2) + i % 4;
		if (channel < m && d < depth)
			out[channel * depth + d] = __fadd_rn(__fadd_rn(__fadd_rn(s[0], s[1]), __fadd_rn(s[2], s[3])), __fadd_rn(__fadd_rn(s[4], s[5]), __fadd_rn(s[6], s[7])));
		__syncthreads();
	}
}

#define WEIGHTS(name, B, blocks)                                                                                                          \
	GLOBAL(B * B / 8, blocks) name(float *__restrict__ partial, const float *__restrict__ x, const float *__restrict__ dy, const int2 *__restrict__ taps, \
		int m, int depth, int h, int w, int image, int ow, int pixels, int sh, int sw, int top, int left, int chunkPixels, int chunks, int tilesM, int tilesD) { \
		weightsTile<B>(partial, x, dy, taps, m, depth, h, w, image, ow, pixels, sh, sw, top, left, chunkPixels, chunks, tilesM, tilesD);  \
	}
WEIGHTS(conv_weights_64, 64, 1)
WEIGHTS(conv_weights_32, 32, 4)

// n sums of so many partial ones, added in order in float64.
GLOBAL(256, 4) add_chunks(float *__restrict__ out, const float *__restrict__ partial, int chunks, int n) {
	const int i = blockIdx.x * 256 + threadIdx.x;
	if (i >= n)
		return;
	double s = 0;
#pragma unroll 8
	for (int c = 0; c < chunks; c++)
		s = __dadd_rn(s, (double)partial[(size_t)c * n + i]);
	out[i] = __double2float_rn(s);
}
