// Package ptx executes PTX, the assembly language of NVIDIA's GPUs, one thread after
// the other and with every check that a real device spares itself. It is the test bed
// of the backend's CUDA kernels on machines without a GPU: only tests import it.
//
// Load reads the text that is given to a real driver and refuses, with line and
// instruction, whatever the package does not execute exactly. Memory is a device's
// memory; Memory.Launch runs a kernel of a Module on it. What is executed follows the
// PTX ISA, version 8.5: 32 lanes to a warp, masks of active lanes that meet again at
// labels, barriers per block, blocks in any order and several at a time.
//
// # What is exact
//
// Integer instructions; additions, multiplications, fused multiply-adds, divisions,
// square roots and conversions of floating-point numbers in the rounding that the
// instruction names. So instructions whose bits the ISA leaves open are refused: every
// .approx, and additions and multiplications that name no rounding, since the driver may
// contract those into a fused multiply-add. The payload of a NaN that single precision
// produces is open too; here it is 0x7fffffff, as on today's devices.
//
// # What is reported
//
// A Fault names kernel, line, instruction, block and thread of
//
//   - an access outside of every allocation, or one that its size does not align;
//   - a read of bytes that nobody has written;
//   - a race: two threads touch one place, one of them writing, and no barrier that both
//     pass lies between. Between blocks nothing orders two accesses of a launch; within
//     a warp bar.warp.sync does, and shfl.sync does not;
//   - a barrier that some threads of the block do not reach, shuffles and votes that
//     lack lanes of their mask;
//   - an integer division by zero, a loop without end, a trap.
//
// # What it says of speed
//
// Counts of executed instructions, of sectors of global memory and of passes over the
// banks of shared memory are exact for the launch that was run, whatever the machine.
package ptx
