// Package gorgonia is a backend plugin on gorgonia.org/gorgonia, for processors and for
// NVIDIA GPUs, with the same bits on both: those that numerics.md defines.
//
// # Whose is what
//
// Gorgonia's are the expression graph, symbolic differentiation, the compiler of graphs
// and the tape machine that runs them, on either device; the addition of gradients where
// a value has several readers; and the Solver interface, which takes the optimiser's
// steps.
//
// This package's are the operators (gorgonia.Op and SDOp, with the semantics of ONNX and
// PyTorch), because v0.9.18 has some of them wrong (Rectify at zero, BatchNorm in
// inference), some slow (Conv2d, Upsample2D) and some that merge when they must not
// (SoftMax): each operator's file says what it works around. Also running statistics, the
// loss, Adam, the arena that lends memory to values, and everything on the GPU: kernels
// (cuda/kernels.cu), launches (device_ops.go), and the tensor.Engine (onGPU) through
// which Gorgonia adds tensors there.
//
// An expression graph has fixed shapes, so a network keeps one compiled plan
// per (batch shape, mode, frozen groups) in a small least-recently-used cache.
// All plans of a network share the weights, the memory of intermediate values
// and the worker goroutines or the device.
//
// # GPUs
//
// The driver's library is loaded when the program runs (internal/driver, by purego): no
// cgo, no build tag, no toolkit, no cuDNN. internal/gpu holds the primary context, one
// stream and a thread of its own for each network. Weights, moments, statistics and values
// stay on the device; a batch goes there through pinned memory, its loss comes back at the
// step's end, which is the only wait. An error after which CUDA refuses everything is
// backend.ErrDeviceLost, and ends the process. kernels.ptx is compiled ahead and
// assembled by the driver for the GPU at hand, Pascal or later.
//
// It has not yet run on a GPU. The tests execute the very PTX by an interpreter
// (internal/ptx) behind a stand-in for the driver (internal/standin): races, bounds, reads
// of what nobody wrote and misuse of the driver are errors, and results are compared with
// the processor's to the bit.
//
// # What bounds the kernels
//
// Counted, not measured. An SM of an A100 (sm_80) does 64 fused multiply-adds a cycle,
// half of what its four schedulers issue; one of an H100 (sm_90) 128, all of it. Both have
// 65,536 registers and 128 bytes of shared memory a cycle.
//
//   - conv_128 (outputs of more than 64 channels): 256 threads with 8×8 outputs each; 128
//     registers, 16 KiB of shared memory, so two blocks or 16 warps an SM. Eight window elements
//     are 512 fused multiply-adds a thread, beside 32 loads of four numbers from shared memory,
//     five loads from global memory on their way to the next tile, and about 70 other
//     instructions: 83 % of what an sm_90 issues, and an sm_80 hides the rest in its free
//     half. From the cache come 8 KiB for 262,144 operations: 32 a byte, 2.1 TB/s at an
//     H100's 67 TFLOPS, 0.6 TB/s at an A100's 19.5, less than half of what either has.
//   - conv_64, conv_32 (fewer channels): 64×256 and 32×256 outputs, 8×8 and 4×8 a thread; the
//     images' loads weigh twice and four times as much: 75 % and 60 % of an sm_90.
//   - conv_weights_64: 512 threads, 8×8 products each, an eighth of them for every chain
//     of a chunk; 128 registers, one block or 16 warps an SM. Sixteen pixels are 128 fused
//     multiply-adds a thread beside 8 loads from shared and 4 from global memory and some 50 other
//     instructions: two thirds of an sm_90. Chunks are 4096 pixels, so there are blocks enough:
//     1024 chunks × 9 tiles for 64 channels at 512×512, batch 16. conv_weights_32 is for
//     few channels or small windows; half of its loads.
//   - Everything else moves numbers: BatchNormalization reads x three times and writes y
//     once, and backwards reads x, y and dy twice and writes dx. At the study's size that
//     and copies are some 60 GB a step: 18 ms at an H100's 3.35 TB/s, 30 ms at an A100's 2.0,
//     beside 6.0 TFLOP of convolutions, 0.15 s and 0.51 s at 60 % of the peak. Statistics are not
//     formed while a convolution stores, nor is normalisation part of its loads: their sums
//     are cut by images and pieces, not by the tiles of a kernel.
//   - float64 is one number in 1024 pixels of a sum and the few channels of the loss: a
//     millisecond on GPUs that have 64 times fewer such units.
//
// On two threads of a processor with AVX2 a step at width 16 on 16 images of 64×64 takes
// 0.92 times the processor time of PyTorch's, and 1.3 times as long, in turns in one run beside
// other programs (BenchmarkStep).
//
// Tensor cores round products' operands to fewer bits, so float32 has no use for them;
// precisions that do are refused.
package gorgonia
