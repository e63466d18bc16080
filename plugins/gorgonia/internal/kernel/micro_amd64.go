//go:build amd64 && !noasm

package kernel

import "golang.org/x/sys/cpu"

// fused says whether the assembly kernels run; a test turns them off.
var fused = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// tile4x16 is tilePortable for packed operands; add is 0 or 1, k at least 1.
//
//go:noescape
func tile4x16(k int, a, b, c *float32, add int)

// dot4x3 fills p.sum.
//
//go:noescape
func dot4x3(p *dotArgs)
