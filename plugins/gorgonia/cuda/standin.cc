// A stand-in for the CUDA driver, cuDNN and cuBLAS, for tests on machines
// without a GPU: it has the functions that the Gorgonia backend calls, computes
// on the processor and checks every call strictly. What breaks a rule is
// written to standard error, and the process ends.
//
//   - Device memory has addresses that cannot be read or written, are never used
//     twice, and lie apart; every access is checked against what was allocated
//     and not freed. Fresh memory holds NaNs.
//   - Contexts are current per thread; handles and memory belong to one; a
//     context dies with nothing left in it.
//   - Descriptors must have been set, agree with each other in shape, type and
//     format; results may not overlap inputs where cuDNN says so.
//   - Kernels must be in the PTX that was loaded, with the number of parameters
//     that they take; what runs is the same source, kernels.cu, as C++.
//
// check.sh adds a function that ends the process for everything else that the
// program could call. Nothing here says how fast or how exact a real device is,
// or that its compiler and libraries accept what this accepts.

#include <sys/mman.h>

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <cuda.h>
#include <cudnn.h>

#define GLOBAL static void
#undef __device__
#define __device__
static thread_local struct {
	unsigned x;
} blockIdx, blockDim, threadIdx;
#include "kernels.cu"

namespace {

std::recursive_mutex lock;
#define ALONE std::lock_guard<std::recursive_mutex> alone(lock)

[[noreturn]] void fail(const char *format, ...) {
	va_list args;
	va_start(args, format);
	fputs("CUDA stand-in: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	abort();
}

#define REQUIRE(condition, ...)     \
	do {                            \
		if (!(condition))           \
			fail(__VA_ARGS__);      \
	} while (0)

struct Allocation {
	size_t size;
	std::vector<char> data;
};

struct Module {
	std::string ptx;
	std::set<std::string> names;
};

} // namespace

// The library's opaque types.
struct CUctx_st {
	std::map<uintptr_t, Allocation> memory;
	std::set<CUmodule> modules;
	std::set<cudnnHandle_t> handles;
};
struct CUmod_st : Module {};
struct CUfunc_st {
	CUmodule module;
	std::string name;
	int parameters;
};
struct cudnnContext {
	CUcontext context;
};
struct cudnnTensorStruct {
	bool set = false;
	size_t n, c, h, w;
	size_t count() const { return n * c * h * w; }
};
struct cudnnFilterStruct {
	bool set = false;
	size_t m, c, h, w;
	size_t count() const { return m * c * h * w; }
};
struct cudnnConvolutionStruct {
	bool set = false, mathSet = false, groupSet = false;
	long top, left, sh, sw;
};

namespace {

bool initialised;
std::set<CUcontext> contexts;
thread_local CUcontext current;
uintptr_t nextAddress, lastAddress;

const char *mode() {
	const char *m = getenv("REFOCUS_STANDIN");
	return m ? m : "";
}

CUcontext here(const char *call) {
	REQUIRE(initialised, "%s before cuInit", call);
	REQUIRE(current, "%s on a thread without a current context", call);
	REQUIRE(contexts.count(current), "%s in a destroyed context", call);
	return current;
}

// real translates device memory of the current context.
char *real(const char *call, const char *what, uintptr_t p, size_t bytes) {
	CUcontext c = here(call);
	auto it = c->memory.upper_bound(p);
	REQUIRE(it != c->memory.begin(), "%s: %s is 0x%lx, which is no device memory", call, what, p);
	--it;
	size_t offset = p - it->first;
	REQUIRE(offset < it->second.size && bytes <= it->second.size - offset,
		"%s: %s is 0x%lx and %zu bytes; the nearest memory is 0x%lx and %zu bytes", call, what, p, bytes, it->first, it->second.size);
	REQUIRE(p % 4 == 0, "%s: %s is not aligned", call, what);
	return it->second.data.data() + offset;
}

float *floats(const char *call, const char *what, const void *p, size_t n) {
	return (float *)real(call, what, (uintptr_t)p, 4 * n);
}

void apart(const char *call, const void *a, size_t na, const void *b, size_t nb) {
	uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
	REQUIRE(x + 4 * na <= y || y + 4 * nb <= x, "%s: the result overlaps an input", call);
}

} // namespace

extern "C" {

// --- driver ---

CUresult cuInit(unsigned flags) {
	ALONE;
	REQUIRE(flags == 0, "cuInit: flags %u", flags);
	if (!strcmp(mode(), "no device"))
		return CUDA_ERROR_NO_DEVICE;
	if (!initialised) {
		size_t size = (size_t)1 << 38;
		void *p = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		REQUIRE(p != MAP_FAILED, "no address space");
		nextAddress = (uintptr_t)p, lastAddress = nextAddress + size;
		initialised = true;
	}
	return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult r, const char **text) {
	*text = r == CUDA_ERROR_NO_DEVICE ? "no CUDA-capable device is detected" : "error";
	return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *v) {
	*v = !strcmp(mode(), "old driver") ? 10020 : 11080;
	return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *n) {
	REQUIRE(initialised, "cuDeviceGetCount before cuInit");
	*n = 1;
	return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *d, int i) {
	REQUIRE(initialised, "cuDeviceGet before cuInit");
	if (i != 0)
		return CUDA_ERROR_INVALID_DEVICE;
	*d = 0;
	return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice d) {
	REQUIRE(d == 0, "cuDeviceGetName: device %d", d);
	snprintf(name, length, "CUDA stand-in (no GPU)");
	return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
	REQUIRE(d == 0, "cuDeviceGetAttribute: device %d", d);
	switch (a) {
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = 6; break;
	case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = 0; break;
	default: fail("cuDeviceGetAttribute: attribute %d", a);
	}
	return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext *c, unsigned, CUdevice d) {
	ALONE;
	REQUIRE(initialised && d == 0, "cuCtxCreate: not initialised, or device %d", d);
	current = *c = new CUctx_st;
	contexts.insert(*c);
	return CUDA_SUCCESS;
}

CUresult cuCtxDestroy(CUcontext c) {
	ALONE;
	REQUIRE(contexts.count(c), "cuCtxDestroy: no such context");
	REQUIRE(c->memory.empty(), "cuCtxDestroy: %zu allocations leak", c->memory.size());
	REQUIRE(c->modules.empty(), "cuCtxDestroy: a module leaks");
	REQUIRE(c->handles.empty(), "cuCtxDestroy: a cuDNN handle leaks");
	contexts.erase(c);
	if (current == c)
		current = nullptr;
	delete c;
	return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
	ALONE;
	here("cuCtxSynchronize");
	return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *p, size_t size) {
	ALONE;
	CUcontext c = here("cuMemAlloc");
	REQUIRE(size > 0, "cuMemAlloc of nothing");
	REQUIRE(size < lastAddress - nextAddress, "out of address space");
	*p = nextAddress;
	nextAddress += (size + 4096 + 255) / 256 * 256; // never adjacent
	Allocation a{size, std::vector<char>(size, (char)0xff)};
	c->memory.emplace((uintptr_t)*p, std::move(a));
	return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr p) {
	ALONE;
	REQUIRE(here("cuMemFree")->memory.erase((uintptr_t)p) == 1, "cuMemFree of 0x%llx, which is not allocated here", p);
	return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
	ALONE;
	memcpy(real("cuMemcpyHtoD", "the target", to, bytes), from, bytes);
	return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
	ALONE;
	memcpy(to, real("cuMemcpyDtoH", "the source", from, bytes), bytes);
	return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
	ALONE;
	apart("cuMemcpyDtoD", (void *)to, bytes / 4, (void *)from, bytes / 4);
	memcpy(real("cuMemcpyDtoD", "the target", to, bytes), real("cuMemcpyDtoD", "the source", from, bytes), bytes);
	return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *m, const void *image) {
	ALONE;
	CUcontext c = here("cuModuleLoadData");
	*m = new CUmod_st;
	(*m)->ptx = (const char *)image;
	REQUIRE((*m)->ptx.find(".version") != std::string::npos && (*m)->ptx.find(".target") != std::string::npos, "cuModuleLoadData: this is no PTX");
	c->modules.insert(*m);
	return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule m) {
	ALONE;
	REQUIRE(here("cuModuleUnload")->modules.erase(m) == 1, "cuModuleUnload: no such module in this context");
	delete m;
	return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
	ALONE;
	REQUIRE(here("cuModuleGetFunction")->modules.count(m), "cuModuleGetFunction: no such module in this context");
	size_t at = m->ptx.find(".entry " + std::string(name) + "(");
	if (at == std::string::npos)
		return CUDA_ERROR_NOT_FOUND;
	size_t end = m->ptx.find(")", m->ptx.find("(", at));
	int n = 0;
	for (size_t q = m->ptx.find(".param", at); q < end; q = m->ptx.find(".param", q + 1)) {
		std::string kind = m->ptx.substr(q, 11);
		REQUIRE(kind == ".param .u64" || kind == ".param .f64", "kernel %s: parameter %d is not 64 bits wide", name, n);
		n++;
	}
	*f = new CUfunc_st{m, name, n};
	return CUDA_SUCCESS;
}

} // extern "C"

namespace {

// Arguments of a kernel, checked as they are taken.
struct Arguments {
	const char *kernel;
	void **p;
	int count = 0;
	i64 whole(int i) { return take(i), *(i64 *)p[i]; }
	double number(int i) { return take(i), *(double *)p[i]; }
	float *array(int i, i64 n) { return take(i), (float *)real(kernel, "an array", *(uintptr_t *)p[i], 4 * n); }
	double *doubles(int i, i64 n) { return take(i), (double *)real(kernel, "an array", *(uintptr_t *)p[i], 8 * n); }
	void take(int i) {
		if (i >= count)
			count = i + 1;
	}
};

// Each entry checks its arguments, for n threads, and returns the thread.
std::map<std::string, std::function<std::function<void()>(Arguments &, i64)>> kernels = {
	{"add", [](Arguments &a, i64 n) {
		 float *o = a.array(0, n), *x = a.array(1, n), *y = a.array(2, n);
		 return [=] { add(o, x, y, n); };
	 }},
	{"relu", [](Arguments &a, i64 n) {
		 float *o = a.array(0, n), *x = a.array(1, n);
		 return [=] { relu(o, x, n); };
	 }},
	{"relu_input", [](Arguments &a, i64 n) {
		 float *o = a.array(0, n), *y = a.array(1, n), *d = a.array(2, n);
		 return [=] { relu_input(o, y, d, n); };
	 }},
	{"upsample", [](Arguments &a, i64 n) {
		 i64 h = a.whole(2), w = a.whole(3), fy = a.whole(4), fx = a.whole(5);
		 REQUIRE(n % (h * w * fy * fx) == 0, "upsample: %lld outputs", n);
		 float *o = a.array(0, n), *x = a.array(1, n / (fy * fx));
		 return [=] { upsample(o, x, h, w, fy, fx, n); };
	 }},
	{"upsample_input", [](Arguments &a, i64 n) {
		 i64 h = a.whole(2), w = a.whole(3), fy = a.whole(4), fx = a.whole(5);
		 REQUIRE(n % (h * w) == 0, "upsample_input: %lld inputs", n);
		 float *o = a.array(0, n), *d = a.array(1, n * fy * fx);
		 return [=] { upsample_input(o, d, h, w, fy, fx, n); };
	 }},
	{"copy_rows", [](Arguments &a, i64 n) {
		 i64 ts = a.whole(1), t0 = a.whole(2), fs = a.whole(4), f0 = a.whole(5), width = a.whole(6);
		 REQUIRE(n % width == 0 && t0 + width <= ts && f0 + width <= fs, "copy_rows: rows of %lld", width);
		 float *to = a.array(0, n / width * ts), *from = a.array(3, n / width * fs);
		 return [=] { copy_rows(to, ts, t0, from, fs, f0, width, n); };
	 }},
	{"max_pool", [](Arguments &a, i64 n) {
		 i64 v[10];
		 for (int i = 0; i < 10; i++)
			 v[i] = a.whole(2 + i);
		 REQUIRE(n % (v[8] * v[9]) == 0, "max_pool: %lld outputs", n);
		 float *o = a.array(0, n), *x = a.array(1, n / (v[8] * v[9]) * v[0] * v[1]);
		 return [=] { max_pool(o, x, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], n); };
	 }},
	{"max_pool_input", [](Arguments &a, i64 n) {
		 i64 v[10];
		 for (int i = 0; i < 10; i++)
			 v[i] = a.whole(3 + i);
		 REQUIRE(n % (v[0] * v[1]) == 0, "max_pool_input: %lld inputs", n);
		 float *o = a.array(0, n), *x = a.array(1, n), *d = a.array(2, n / (v[0] * v[1]) * v[8] * v[9]);
		 return [=] { max_pool_input(o, x, d, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], n); };
	 }},
	{"cross_entropy", [](Arguments &a, i64 n) {
		 i64 k = a.whole(3), pixels = a.whole(4), parts = a.whole(5);
		 REQUIRE(n % parts == 0, "cross_entropy: %lld sums in %lld parts", n, parts);
		 double *o = a.doubles(0, n);
		 float *z = a.array(1, n / parts * k * pixels), *l = a.array(2, n / parts * pixels);
		 return [=] { cross_entropy(o, z, l, k, pixels, parts, n); };
	 }},
	{"cross_entropy_input", [](Arguments &a, i64 n) {
		 i64 k = a.whole(3), pixels = a.whole(4);
		 double share = a.number(5);
		 REQUIRE(n % pixels == 0, "cross_entropy_input: %lld pixels", n);
		 float *o = a.array(0, n * k), *z = a.array(1, n * k), *l = a.array(2, n);
		 return [=] { cross_entropy_input(o, z, l, k, pixels, share, n); };
	 }},
	{"adam", [](Arguments &a, i64 n) {
		 float *w = a.array(0, n), *m = a.array(1, n), *v = a.array(2, n), *g = a.array(3, n);
		 double f[6];
		 for (int i = 0; i < 6; i++)
			 f[i] = a.number(4 + i);
		 return [=] { adam(w, m, v, g, f[0], f[1], f[2], f[3], f[4], f[5], n); };
	 }},
	{"blend", [](Arguments &a, i64 n) {
		 float *r = a.array(0, n), *b = a.array(1, n);
		 double momentum = a.number(2);
		 return [=] { blend(r, b, momentum, n); };
	 }},
};

} // namespace

extern "C" {

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
	unsigned shared, CUstream stream, void **parameters, void **extra) {
	ALONE;
	CUcontext c = here("cuLaunchKernel");
	const char *name = f->name.c_str();
	REQUIRE(c->modules.count(f->module), "kernel %s: its module is not loaded in this context", name);
	REQUIRE(kernels.count(f->name), "kernel %s is unknown", name);
	REQUIRE(gy == 1 && gz == 1 && by == 1 && bz == 1 && !shared && !stream && !extra, "kernel %s: launched in an unexpected way", name);
	REQUIRE(bx >= 1 && bx <= 1024 && gx >= 1 && gx <= 0x7fffffff, "kernel %s: %u blocks of %u threads", name, gx, bx);
	Arguments a{name, parameters};
	i64 n = a.whole(f->parameters - 1);
	REQUIRE(n > 0 && (i64)gx * bx >= n && (i64)gx * bx - bx < n, "kernel %s: %u blocks of %u threads for %lld elements", name, gx, bx, n);
	auto thread = kernels[f->name](a, n);
	REQUIRE(a.count == f->parameters, "kernel %s: takes %d parameters, the PTX has %d", name, a.count, f->parameters);
	blockDim.x = bx;
	for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++)
		for (threadIdx.x = 0; threadIdx.x < bx; threadIdx.x++)
			thread();
	return CUDA_SUCCESS;
}

// --- cuDNN: handles and descriptors ---

size_t cudnnGetVersion() { return !strcmp(mode(), "new cuDNN") ? 9100 : 8906; }

const char *cudnnGetErrorString(cudnnStatus_t) { return "error"; }

cudnnStatus_t cudnnCreate(cudnnHandle_t *h) {
	ALONE;
	CUcontext c = here("cudnnCreate");
	*h = new cudnnContext{c};
	c->handles.insert(*h);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h) {
	ALONE;
	REQUIRE(here("cudnnDestroy")->handles.erase(h) == 1, "cudnnDestroy: no such handle in this context");
	delete h;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *d) { return *d = new cudnnTensorStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return delete d, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *d) { return *d = new cudnnFilterStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { return delete d, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *d) { return *d = new cudnnConvolutionStruct, CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { return delete d, CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
	REQUIRE(format == CUDNN_TENSOR_NCHW && type == CUDNN_DATA_FLOAT, "tensor descriptor: format %d, type %d", format, type);
	REQUIRE(n > 0 && c > 0 && h > 0 && w > 0, "tensor descriptor: [%d,%d,%d,%d]", n, c, h, w);
	d->set = true, d->n = n, d->c = c, d->h = h, d->w = w;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int m, int c, int h, int w) {
	REQUIRE(format == CUDNN_TENSOR_NCHW && type == CUDNN_DATA_FLOAT, "filter descriptor: format %d, type %d", format, type);
	REQUIRE(m > 0 && c > 0 && h > 0 && w > 0, "filter descriptor: [%d,%d,%d,%d]", m, c, h, w);
	d->set = true, d->m = m, d->c = c, d->h = h, d->w = w;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t t) {
	REQUIRE(t == CUDNN_FMA_MATH, "convolution descriptor: math type %d would allow TF32", t);
	d->mathSet = true;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int n) {
	REQUIRE(n == 1, "convolution descriptor: %d groups", n);
	d->groupSet = true;
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int top, int left, int sh, int sw, int dh, int dw, cudnnConvolutionMode_t mode, cudnnDataType_t type) {
	REQUIRE(mode == CUDNN_CROSS_CORRELATION && type == CUDNN_DATA_FLOAT && dh == 1 && dw == 1, "convolution descriptor: mode %d, type %d, dilation %d×%d", mode, type, dh, dw);
	REQUIRE(top >= 0 && left >= 0 && sh > 0 && sw > 0, "convolution descriptor: padding %d×%d, strides %d×%d", top, left, sh, sw);
	d->set = true, d->top = top, d->left = left, d->sh = sh, d->sw = sw;
	return CUDNN_STATUS_SUCCESS;
}

} // extern "C"

namespace {

void handle(const char *call, cudnnHandle_t h) {
	REQUIRE(here(call)->handles.count(h), "%s: the handle is not of the current context", call);
}

// factors checks those of the result and of what is there already.
void factors(const char *call, const void *a, const void *b, float wantA, float wantB) {
	REQUIRE(*(float *)a == wantA && *(float *)b == wantB, "%s: factors %g and %g, expected %g and %g", call, *(float *)a, *(float *)b, wantA, wantB);
}

// CALL begins an operation of cuDNN.
#define CALL(alpha, beta, wantBeta)     \
	ALONE;                          \
	const char *call = __func__;    \
	handle(call, h);                \
	factors(call, alpha, beta, 1, wantBeta)

void same(const char *call, const cudnnTensorStruct *a, const cudnnTensorStruct *b) {
	REQUIRE(a->set && b->set && a->n == b->n && a->c == b->c && a->h == b->h && a->w == b->w, "%s: descriptors differ or are not set", call);
}

void convolution(const char *call, const cudnnTensorStruct *x, const cudnnFilterStruct *w, const cudnnConvolutionStruct *c, const cudnnTensorStruct *y) {
	REQUIRE(x->set && w->set && y->set && c->set && c->mathSet && c->groupSet, "%s: a descriptor is not set", call);
	REQUIRE(x->c == w->c && y->c == w->m && y->n == x->n, "%s: channels or images do not fit", call);
	long oh = ((long)x->h + 2 * c->top - (long)w->h) / c->sh + 1, ow = ((long)x->w + 2 * c->left - (long)w->w) / c->sw + 1;
	REQUIRE((long)y->h == oh && (long)y->w == ow, "%s: output %zu×%zu, expected %ld×%ld", call, y->h, y->w, oh, ow);
}

// taps calls f(output index, input index, weight index) for all products.
template <class F>
void taps(const cudnnTensorStruct *x, const cudnnFilterStruct *w, const cudnnConvolutionStruct *c, const cudnnTensorStruct *y, F f) {
	for (size_t n = 0; n < y->n; n++)
		for (size_t m = 0; m < y->c; m++)
			for (size_t ch = 0; ch < x->c; ch++)
				for (size_t ky = 0; ky < w->h; ky++)
					for (size_t kx = 0; kx < w->w; kx++)
						for (size_t oy = 0; oy < y->h; oy++) {
							long iy = (long)(oy * c->sh + ky) - c->top;
							if (iy < 0 || iy >= (long)x->h)
								continue;
							for (size_t ox = 0; ox < y->w; ox++) {
								long ix = (long)(ox * c->sw + kx) - c->left;
								if (ix >= 0 && ix < (long)x->w)
									f(((n * y->c + m) * y->h + oy) * y->w + ox, ((n * x->c + ch) * x->h + iy) * x->w + ix, ((m * w->c + ch) * w->h + ky) * w->w + kx);
							}
						}
}

void store(float *to, const std::vector<double> &from) {
	for (size_t i = 0; i < from.size(); i++)
		to[i] = (float)from[i];
}

// An operand of a convolution; index says which of the indices of taps it has.
struct Operand {
	const char *what;
	const void *p;
	size_t count;
	int index;
};
enum { Y, X, W };

// convolve sums the products of a and b into the result.
void convolve(const char *call, const cudnnTensorStruct *xd, const cudnnFilterStruct *wd, const cudnnConvolutionStruct *cd, const cudnnTensorStruct *yd,
	Operand result, Operand a, Operand b) {
	convolution(call, xd, wd, cd, yd);
	apart(call, result.p, result.count, a.p, a.count);
	apart(call, result.p, result.count, b.p, b.count);
	float *pa = floats(call, a.what, a.p, a.count), *pb = floats(call, b.what, b.p, b.count);
	std::vector<double> s(result.count);
	taps(xd, wd, cd, yd, [&](size_t o, size_t i, size_t k) {
		size_t at[] = {o, i, k};
		s[at[result.index]] += (double)pa[at[a.index]] * pb[at[b.index]];
	});
	store(floats(call, result.what, result.p, result.count), s);
}

void channelDescriptor(const char *call, const cudnnTensorStruct *d, const cudnnTensorStruct *x) {
	REQUIRE(d->set && d->n == 1 && d->c == x->c && d->h == 1 && d->w == 1, "%s: the channels' descriptor is not [1,%zu,1,1]", call, x->c);
}

void normalization(const char *call, cudnnBatchNormMode_t mode, double epsilon, const cudnnTensorStruct *x, const cudnnTensorStruct *y, const cudnnTensorStruct *channels) {
	REQUIRE(mode == CUDNN_BATCHNORM_SPATIAL && epsilon >= CUDNN_BN_MIN_EPSILON, "%s: mode %d, epsilon %g", call, mode, epsilon);
	same(call, x, y);
	channelDescriptor(call, channels, x);
}

// channel calls f with the index of every element of channel k.
template <class F>
void channel(const cudnnTensorStruct *x, size_t k, F f) {
	size_t pixels = x->h * x->w;
	for (size_t n = 0; n < x->n; n++)
		for (size_t q = 0; q < pixels; q++)
			f((n * x->c + k) * pixels + q);
}

} // namespace

extern "C" {

// --- cuDNN: convolution ---

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void *alpha, cudnnTensorDescriptor_t xd, const void *x, cudnnFilterDescriptor_t wd, const void *w,
	cudnnConvolutionDescriptor_t cd, cudnnConvolutionFwdAlgo_t algo, void *space, size_t size, const void *beta, cudnnTensorDescriptor_t yd, void *y) {
	CALL(alpha, beta, 0);
	REQUIRE(algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM && !space && !size, "%s: algorithm %d may need a workspace", call, algo);
	convolve(call, xd, wd, cd, yd, {"y", y, yd->count(), Y}, {"x", x, xd->count(), X}, {"w", w, wd->count(), W});
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void *alpha, cudnnFilterDescriptor_t wd, const void *w, cudnnTensorDescriptor_t yd, const void *dy,
	cudnnConvolutionDescriptor_t cd, cudnnConvolutionBwdDataAlgo_t algo, void *space, size_t size, const void *beta, cudnnTensorDescriptor_t xd, void *dx) {
	CALL(alpha, beta, 0);
	REQUIRE(algo == CUDNN_CONVOLUTION_BWD_DATA_ALGO_0 && !space && !size, "%s: algorithm %d may need a workspace", call, algo);
	convolve(call, xd, wd, cd, yd, {"dx", dx, xd->count(), X}, {"dy", dy, yd->count(), Y}, {"w", w, wd->count(), W});
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void *alpha, cudnnTensorDescriptor_t xd, const void *x, cudnnTensorDescriptor_t yd, const void *dy,
	cudnnConvolutionDescriptor_t cd, cudnnConvolutionBwdFilterAlgo_t algo, void *space, size_t size, const void *beta, cudnnFilterDescriptor_t wd, void *dw) {
	CALL(alpha, beta, 0);
	REQUIRE(algo == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0 && !space && !size, "%s: algorithm %d may need a workspace", call, algo);
	convolve(call, xd, wd, cd, yd, {"dw", dw, wd->count(), W}, {"x", x, xd->count(), X}, {"dy", dy, yd->count(), Y});
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardBias(cudnnHandle_t h, const void *alpha, cudnnTensorDescriptor_t yd, const void *dy, const void *beta, cudnnTensorDescriptor_t bd, void *db) {
	CALL(alpha, beta, 0);
	REQUIRE(yd->set, "%s: a descriptor is not set", call);
	channelDescriptor(call, bd, yd);
	apart(call, db, bd->count(), dy, yd->count());
	float *pd = floats(call, "dy", dy, yd->count());
	std::vector<double> s(yd->c);
	for (size_t i = 0; i < yd->count(); i++)
		s[i / (yd->h * yd->w) % yd->c] += pd[i];
	store(floats(call, "db", db, bd->count()), s);
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnAddTensor(cudnnHandle_t h, const void *alpha, cudnnTensorDescriptor_t ad, const void *a, const void *beta, cudnnTensorDescriptor_t cd, void *c) {
	CALL(alpha, beta, 1);
	REQUIRE(cd->set, "%s: a descriptor is not set", call);
	channelDescriptor(call, ad, cd);
	apart(call, c, cd->count(), a, ad->count());
	float *pa = floats(call, "a", a, ad->count()), *pc = floats(call, "c", c, cd->count());
	for (size_t i = 0; i < cd->count(); i++)
		pc[i] += pa[i / (cd->h * cd->w) % cd->c];
	return CUDNN_STATUS_SUCCESS;
}

// --- cuDNN: BatchNormalization ---

cudnnStatus_t cudnnBatchNormalizationForwardTraining(cudnnHandle_t h, cudnnBatchNormMode_t mode, const void *alpha, const void *beta,
	const cudnnTensorDescriptor_t xd, const void *x, const cudnnTensorDescriptor_t yd, void *y, const cudnnTensorDescriptor_t cd, const void *scale, const void *shift,
	double factor, void *runningMean, void *runningVariance, double epsilon, void *savedMean, void *savedInverse) {
	CALL(alpha, beta, 0);
	normalization(call, mode, epsilon, xd, yd, cd);
	size_t c = xd->c, count = xd->n * xd->h * xd->w;
	REQUIRE(count > 1, "%s: one value per channel", call);
	apart(call, y, yd->count(), x, xd->count());
	float *px = floats(call, "x", x, xd->count()), *py = floats(call, "y", y, yd->count());
	float *ps = floats(call, "scale", scale, c), *pb = floats(call, "shift", shift, c);
	float *rm = floats(call, "the running mean", runningMean, c), *rv = floats(call, "the running variance", runningVariance, c);
	float *sm = floats(call, "the saved mean", savedMean, c), *si = floats(call, "the saved inverse", savedInverse, c);
	for (size_t k = 0; k < c; k++) {
		double mean = 0, square = 0;
		channel(xd, k, [&](size_t i) { mean += px[i]; });
		mean /= count;
		channel(xd, k, [&](size_t i) { square += (px[i] - mean) * (px[i] - mean); });
		double inverse = 1 / sqrt(square / count + epsilon);
		channel(xd, k, [&](size_t i) { py[i] = (float)((px[i] - mean) * inverse * ps[k] + pb[k]); });
		rm[k] = (float)(rm[k] * (1 - factor) + mean * factor);
		rv[k] = (float)(rv[k] * (1 - factor) + square / (count - 1) * factor);
		sm[k] = (float)mean, si[k] = (float)inverse;
	}
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBatchNormalizationForwardInference(cudnnHandle_t h, cudnnBatchNormMode_t mode, const void *alpha, const void *beta,
	const cudnnTensorDescriptor_t xd, const void *x, const cudnnTensorDescriptor_t yd, void *y, const cudnnTensorDescriptor_t cd, const void *scale, const void *shift,
	const void *mean, const void *variance, double epsilon) {
	CALL(alpha, beta, 0);
	normalization(call, mode, epsilon, xd, yd, cd);
	apart(call, y, yd->count(), x, xd->count());
	float *px = floats(call, "x", x, xd->count()), *py = floats(call, "y", y, yd->count());
	float *ps = floats(call, "scale", scale, xd->c), *pb = floats(call, "shift", shift, xd->c);
	float *pm = floats(call, "mean", mean, xd->c), *pv = floats(call, "variance", variance, xd->c);
	for (size_t i = 0; i < xd->count(); i++) {
		size_t k = i / (xd->h * xd->w) % xd->c;
		py[i] = (float)((px[i] - pm[k]) / sqrt(pv[k] + epsilon) * ps[k] + pb[k]);
	}
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBatchNormalizationBackward(cudnnHandle_t h, cudnnBatchNormMode_t mode, const void *alphaData, const void *betaData, const void *alphaParameters, const void *betaParameters,
	const cudnnTensorDescriptor_t xd, const void *x, const cudnnTensorDescriptor_t yd, const void *dy, const cudnnTensorDescriptor_t dd, void *dx,
	const cudnnTensorDescriptor_t cd, const void *scale, void *dscale, void *dshift, double epsilon, const void *savedMean, const void *savedInverse) {
	CALL(alphaData, betaData, 0);
	factors(call, alphaParameters, betaParameters, 1, 0);
	normalization(call, mode, epsilon, xd, yd, cd);
	same(call, xd, dd);
	size_t c = xd->c, count = xd->n * xd->h * xd->w;
	apart(call, dx, xd->count(), x, xd->count());
	apart(call, dx, xd->count(), dy, xd->count());
	float *px = floats(call, "x", x, xd->count()), *pd = floats(call, "dy", dy, xd->count()), *po = floats(call, "dx", dx, xd->count());
	float *ps = floats(call, "scale", scale, c), *gs = floats(call, "dscale", dscale, c), *gb = floats(call, "dshift", dshift, c);
	float *sm = floats(call, "the saved mean", savedMean, c), *si = floats(call, "the saved inverse", savedInverse, c);
	for (size_t k = 0; k < c; k++) {
		double dot = 0, total = 0, mean = sm[k], inverse = si[k], factor = ps[k];
		channel(xd, k, [&](size_t i) { dot += pd[i] * (px[i] - mean) * inverse, total += pd[i]; });
		channel(xd, k, [&](size_t i) { po[i] = (float)(factor * inverse * (pd[i] - total / count - (px[i] - mean) * inverse * dot / count)); });
		gs[k] = (float)dot, gb[k] = (float)total;
	}
	return CUDNN_STATUS_SUCCESS;
}

// --- cuDNN: Softmax ---

cudnnStatus_t cudnnSoftmaxForward(cudnnHandle_t h, cudnnSoftmaxAlgorithm_t algo, cudnnSoftmaxMode_t mode, const void *alpha,
	const cudnnTensorDescriptor_t xd, const void *x, const void *beta, const cudnnTensorDescriptor_t yd, void *y) {
	CALL(alpha, beta, 0);
	REQUIRE(algo == CUDNN_SOFTMAX_ACCURATE && mode == CUDNN_SOFTMAX_MODE_CHANNEL, "%s: algorithm %d, mode %d", call, algo, mode);
	same(call, xd, yd);
	float *px = floats(call, "x", x, xd->count()), *py = floats(call, "y", y, yd->count());
	size_t pixels = xd->h * xd->w, c = xd->c;
	channel(xd, 0, [&](size_t q) {
		double top = px[q], total = 0;
		for (size_t k = 0; k < c; k++)
			top = fmax(top, px[q + k * pixels]);
		std::vector<double> e(c);
		for (size_t k = 0; k < c; k++)
			total += e[k] = exp(px[q + k * pixels] - top);
		for (size_t k = 0; k < c; k++)
			py[q + k * pixels] = (float)(e[k] / total);
	});
	return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSoftmaxBackward(cudnnHandle_t h, cudnnSoftmaxAlgorithm_t algo, cudnnSoftmaxMode_t mode, const void *alpha,
	const cudnnTensorDescriptor_t yd, const void *y, const cudnnTensorDescriptor_t dd, const void *dy, const void *beta, const cudnnTensorDescriptor_t xd, void *dx) {
	CALL(alpha, beta, 0);
	REQUIRE(algo == CUDNN_SOFTMAX_ACCURATE && mode == CUDNN_SOFTMAX_MODE_CHANNEL, "%s: algorithm %d, mode %d", call, algo, mode);
	same(call, xd, yd);
	same(call, xd, dd);
	float *py = floats(call, "y", y, yd->count()), *pd = floats(call, "dy", dy, yd->count()), *po = floats(call, "dx", dx, yd->count());
	size_t pixels = xd->h * xd->w, c = xd->c;
	channel(xd, 0, [&](size_t q) {
		double dot = 0;
		for (size_t k = 0; k < c; k++)
			dot += (double)py[q + k * pixels] * pd[q + k * pixels];
		for (size_t k = 0; k < c; k++)
			po[q + k * pixels] = (float)(py[q + k * pixels] * (pd[q + k * pixels] - dot));
	});
	return CUDNN_STATUS_SUCCESS;
}

} // extern "C"
