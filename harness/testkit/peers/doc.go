// Package peers decides what a test does when an outside program that it
// compares against (PyTorch, ONNX Runtime, OpenCV, Slurm, qemu, …) is missing:
// skip with the reason on a plain machine, fail where REFOCUS_PEERS=require.
package peers
