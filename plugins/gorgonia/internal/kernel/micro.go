package kernel

import "unsafe"

// The micro-kernels. The portable ones below and the assembly give the same bits.

const (
	rows    = 4  // output channels per tile
	columns = 16 // output pixels per tile
	lanes   = 8  // chains of a dot product, one for every eighth pixel
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

func tile(k int, a, b, c []float32, add bool) {
	if !assembly {
		tilePortable(k, a, b, c, add)
		return
	}
	_, _, _ = a[k*rows-1], b[k*columns-1], c[rows*columns-1]
	n := 0
	if add {
		n = 1
	}
	tile4x16(k, &a[0], &b[0], &c[0], n)
}

func dot(p *dotArgs) {
	if assembly {
		dot4x3(p)
	} else {
		dotPortable(p)
	}
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
				ci[j] = fma(ai, bk[j], ci[j])
			}
		}
		a, b = a[rows:], b[columns:]
	}
}

func dotPortable(p *dotArgs) {
	for i := range p.a {
		for j := range p.b {
			var s [lanes]float32
			for o := range p.outer {
				a := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.a[i]), o*p.strideA)), p.inner)
				b := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.b[j]), o*p.strideB)), p.inner)
				for l := 0; l < len(a); l += lanes {
					x, y := (*[lanes]float32)(a[l:]), (*[lanes]float32)(b[l:])
					for q := range s {
						s[q] = fma(x[q], y[q], s[q])
					}
				}
			}
			p.sum[3*i+j] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
		}
	}
}

// ISA names the instruction set of the kernels in use, on which no bit depends.
func ISA() string {
	if assembly {
		return "avx2"
	}
	return "portable"
}
