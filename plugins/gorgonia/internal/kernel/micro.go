package kernel

// The micro-kernels. Their assembly versions fuse each multiply-add, the
// portable ones below round twice; a build and machine uses one kind throughout.

const (
	rows    = 4  // output channels per tile
	columns = 16 // output pixels per tile
	lanes   = 8  // dot products read this many pixels at a time
)

// dotArgs are the operands of one call of dot4x3: four rows a and three rows b,
// each of outer segments of inner floats (a multiple of lanes) that start
// strideA or strideB bytes apart.
type dotArgs struct {
	a                [4]*float32
	b                [3]*float32
	strideA, strideB int
	outer, inner     int
	sum              [12]float32 // sum[3*i+j] = a[i]·b[j]
}

// tilePortable sets c[i][j] (rows×columns) to Σₖ a[k][i]·b[k][j], added to what
// c holds if add is set.
func tilePortable(k int, a, b, c []float32, add bool) {
	c = c[:rows*columns]
	if !add {
		clear(c)
	}
	for range k {
		bk := (*[columns]float32)(b)
		for i, ai := range a[:rows] {
			ci := (*[columns]float32)(c[i*columns:])
			for j := range ci {
				ci[j] += ai * bk[j]
			}
		}
		a, b = a[rows:], b[columns:]
	}
}

// ISA names the instruction set of the kernels in use.
func ISA() string {
	if fused {
		return "avx2"
	}
	return "portable"
}
