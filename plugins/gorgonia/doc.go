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
// Numbers: those that numerics.md defines, on every processor and with any number of
// threads. float32, sums over pixels in pieces of float32 and then in float64.
package gorgonia
