// Package cpu is the CPU reference backend.
//
// New returns the backend; cmd/refocus-backend-cpu serves it as a plugin, and
// the harness has it built in. Sessions are harness/backend/engine's; a network
// is kept in one of two engines:
//
//	internal/fast   blocked layout and assembly kernels (internal/kernel);
//	                the study's U-Net at any width, in float32 and mixed precision
//	internal/plain  ordinary loops; every operator that the backend has, in
//	                float32, float64 and mixed precision
//
// The fast engine runs what it takes, the plain one the rest. Which one follows
// from the graph and the precision alone; REFOCUS_CPU_ENGINE=plain or fast
// insists on one, for tests and cross-checks, and then shows in the numeric
// version.
//
// # Bits
//
// Results are the same whatever the number of threads, the instruction set
// (REFOCUS_ISA) and the architecture: every sum is a chain, or blocks of chains,
// that follow from the shapes alone; exponentials and logarithms come from
// internal/pmath and half precision from harness/half. internal/smoke holds the
// digests that pin the bits; whoever changes them changes the numeric version.
//
// # Accuracy
//
// oracle_test.go compares both engines with PyTorch from the same weights and
// batches. In float64 they agree to about 1e-15 in outputs and losses and 1e-13
// in gradients.
package cpu
