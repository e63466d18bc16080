// Package gorgonia is a backend plugin on gorgonia.org/gorgonia.
//
// Gorgonia keeps the expression graph, differentiates it symbolically,
// compiles it and runs it on its tape machine; its Solver interface takes the
// optimiser's steps. The operators are this package's own: gorgonia.Op and
// SDOp implementations with the semantics of ONNX and PyTorch, because v0.9.18
// has some of them wrong (Rectify at zero, BatchNorm in inference), some slow
// (Conv2d, Upsample2D) and some that merge when they must not (SoftMax). Each
// operator's file says what it works around.
//
// An expression graph has fixed shapes, so a network keeps one compiled plan
// per (batch shape, mode, frozen groups) in a small least-recently-used cache.
// All plans of a network share the weights, the memory of intermediate values
// and the worker goroutines.
//
// Built with -tags cuda the same operators run on an NVIDIA GPU: as CUDADoers
// over gorgonia.org/cu, with cuDNN and kernels of this package (cuda/kernels.cu),
// on a machine of this package, for reasons that deviceMachine states. That build
// needs cgo, CUDA 11 and cuDNN 8. It has been compiled and linked against
// NVIDIA's libraries and exercised against a stand-in for them that checks every
// call (cuda/check.sh), but not yet been run on a GPU.
//
// Numbers: float32 throughout, sums over pixels in float64. Results depend on
// the machine's instruction set but not on the number of threads; on a GPU they
// may differ between runs.
package gorgonia
