//go:build amd64 && !noasm

package kernel

import (
	"os"

	"golang.org/x/sys/cpu"
)

// assembly says whether the assembly kernels run; tests turn them off.
var assembly = cpu.X86.HasAVX2 && cpu.X86.HasFMA && os.Getenv("REFOCUS_ISA") != "portable"

// tile4x16 is tilePortable for packed operands; add is 0 or 1, k at least 1.
//
//go:noescape
func tile4x16(k int, a, b, c *float32, add int)

// dot4x3 fills p.sum.
//
//go:noescape
func dot4x3(p *dotArgs)

// sumLanes, squareLanes and productLanes add n rows of 32 values to the lanes s: those
// of Sum, of SumSquares, and of SumProducts, which masks where r is 1. n is at least 1.
//
//go:noescape
func sumLanes(s *[wide]float32, x *float32, n int)

//go:noescape
func squareLanes(s *[wide]float32, x *float32, n int, m float32)

//go:noescape
func productLanes(s *[2][wide]float32, x, y, dy *float32, n int, m float32, r int)

// affineLanes and combineLanes are Affine and Combine of n rows of eight values.
//
//go:noescape
func affineLanes(y, x *float32, n int, k, t float32, r int)

//go:noescape
func combineLanes(dx, x, y, dy *float32, n int, k, p, q float32, r int)
