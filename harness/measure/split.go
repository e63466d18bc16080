package measure

import (
	"container/heap"
	"math"
)

// DefaultSplitDepth is by how much of its own height, at least, a summit of the distance
// to the border stands above the pass to a higher one, to be a particle of its own.
const DefaultSplitDepth = 0.1

// splitLeast is that in pixels, which keeps the steps of a digital border from counting.
const splitLeast = 0.75

// Split parts particles that touch: a watershed of the distance to the border, from
// those of its summits that stand above their passes by more than a part of their height,
// depth (above 0, DefaultSplitDepth serves most; from 1 on nothing is parted). It
// over-splits particles that are not convex.
func Split(h, w int, mask []bool, depth float64) (labels []int32, n int) {
	d := Distance(h, w, mask)
	markers := summits(h, w, mask, d, depth)
	labels = Watershed(h, w, mask, d, markers)
	return labels, Renumber(labels)
}

// Distance is the Euclidean distance of every pixel of the mask to the nearest
// pixel outside, exactly; pixels beyond the image do not count. A mask without
// an outside has distances of +Inf.
//
// P. Felzenszwalb, D. Huttenlocher: Distance transforms of sampled functions.
// Theory of Computing 8 (2012) 415.
func Distance(h, w int, mask []bool) []float64 {
	d := make([]float64, h*w)
	for i, m := range mask {
		if m {
			d[i] = math.Inf(1)
		}
	}
	n := max(h, w)
	f, g := make([]float64, n), make([]float64, n)
	v, z := make([]int, n), make([]float64, n+1)
	line := func(n, first, step int) {
		k := -1
		for q := range n {
			f[q] = d[first+q*step]
			if math.IsInf(f[q], 1) {
				continue
			}
			s := math.Inf(-1)
			for k >= 0 {
				p := v[k]
				s = (f[q] + float64(q*q) - f[p] - float64(p*p)) / float64(2*(q-p))
				if s > z[k] {
					break
				}
				k--
			}
			if k < 0 {
				s = math.Inf(-1)
			}
			k++
			v[k], z[k], z[k+1] = q, s, math.Inf(1)
		}
		if k < 0 {
			return
		}
		for q, j := 0, 0; q < n; q++ {
			for z[j+1] < float64(q) {
				j++
			}
			g[q] = float64((q-v[j])*(q-v[j])) + f[v[j]]
		}
		for q := range n {
			d[first+q*step] = g[q]
		}
	}
	for x := range w {
		line(h, x, w)
	}
	for y := range h {
		line(w, y*w, 1)
	}
	for i, s := range d {
		d[i] = math.Sqrt(s)
	}
	return d
}

// summits numbers the maxima of the distance that are high enough above the pass
// to a higher one. Pixels are taken from the highest down; where two hills meet,
// the lower one ends if it is too shallow and else stays one.
func summits(h, w int, mask []bool, d []float64, depth float64) []int32 {
	order := queue{}
	for i, m := range mask {
		if m {
			order = append(order, item{-d[i], i, i})
		}
	}
	heap.Init(&order)
	hill := make([]int32, h*w) // of visited pixels, from 1
	parent := []int32{0}
	summit := []int{-1}
	find := func(i int32) int32 {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	kept := map[int32]bool{}
	for order.Len() > 0 {
		at := heap.Pop(&order).(item).at
		var own int32
		neighbours(h, w, at, func(i int) {
			if hill[i] == 0 {
				return
			}
			r := find(hill[i])
			if own == 0 || own == r {
				own = r
				return
			}
			// two hills meet: the one with the lower summit ends here
			low, high := own, r
			if d[summit[low]] > d[summit[high]] || d[summit[low]] == d[summit[high]] && low < high {
				low, high = high, low
			}
			if top := d[summit[low]]; top-d[at] >= max(splitLeast, depth*top) {
				kept[low] = true
			}
			parent[low] = high
			own = high
		})
		if own == 0 {
			own = int32(len(parent))
			parent = append(parent, own)
			summit = append(summit, at)
		}
		hill[at] = own
	}
	markers := make([]int32, h*w)
	var n int32
	for i := range parent {
		if i > 0 && (parent[i] == int32(i) || kept[int32(i)]) {
			n++
			markers[summit[i]] = n
		}
	}
	return markers
}

// Watershed gives every pixel of the mask the number of the marker whose hill it
// belongs to: from the markers down, highest pixels first, those that were
// reached first among equals, over pixels that share an edge or a corner. Pixels
// without a way to a marker have none.
func Watershed(h, w int, mask []bool, height []float64, markers []int32) []int32 {
	labels := make([]int32, h*w)
	var q queue
	age := 0
	for i, m := range markers {
		if m > 0 && mask[i] {
			labels[i] = m
			q = append(q, item{-height[i], age, i})
			age++
		}
	}
	heap.Init(&q)
	for q.Len() > 0 {
		at := heap.Pop(&q).(item).at
		neighbours(h, w, at, func(i int) {
			if mask[i] && labels[i] == 0 {
				labels[i] = labels[at]
				heap.Push(&q, item{-height[i], age, i})
				age++
			}
		})
	}
	return labels
}

// item is a pixel that waits for its turn: the lowest level first, then the
// smallest age.
type item struct {
	level float64
	age   int
	at    int
}

type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].level < q[j].level || q[i].level == q[j].level && q[i].age < q[j].age
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}
