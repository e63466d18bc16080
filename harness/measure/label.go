package measure

// Components gives the pixels of every connected region of the mask a number, from
// 1 in the order of the regions' first pixels; background is 0. Pixels that touch
// at a corner are connected.
func Components(h, w int, mask []bool) (labels []int32, n int) {
	labels = make([]int32, h*w)
	// First provisional numbers, and which of them are one region: a root is its
	// own parent and the smallest number of its region.
	parent := []int32{0}
	find := func(i int32) int32 {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	for y := range h {
		for x := range w {
			at := y*w + x
			if !mask[at] {
				continue
			}
			var root int32
			join := func(y, x int) {
				if y < 0 || x < 0 || x >= w || labels[y*w+x] == 0 {
					return
				}
				r := find(labels[y*w+x])
				switch {
				case root == 0:
					root = r
				case r < root:
					parent[root] = r
					root = r
				case root < r:
					parent[r] = root
				}
			}
			join(y, x-1)
			join(y-1, x-1)
			join(y-1, x)
			join(y-1, x+1)
			if root == 0 {
				root = int32(len(parent))
				parent = append(parent, root)
			}
			labels[at] = root
		}
	}
	for i, l := range labels {
		labels[i] = find(l)
	}
	return labels, Renumber(labels)
}

// Renumber numbers the regions from 1 in the order of their first pixels and
// returns how many there are. Pixels below 1 become background.
func Renumber(labels []int32) (n int) {
	number := map[int32]int32{}
	var last, as int32
	for i, l := range labels {
		if l <= 0 {
			labels[i] = 0
			continue
		}
		if l != last {
			var ok bool
			if as, ok = number[l]; !ok {
				n++
				as = int32(n)
				number[l] = as
			}
			last = l
		}
		labels[i] = as
	}
	return n
}

// FillHoles adds to the mask the background that is enclosed by it: that has no
// way to the image's border over pixels that share an edge.
func FillHoles(h, w int, mask []bool) {
	outside := make([]bool, h*w)
	var stack []int
	visit := func(at int) {
		if !mask[at] && !outside[at] {
			outside[at] = true
			stack = append(stack, at)
		}
	}
	for x := range w {
		visit(x)
		visit((h-1)*w + x)
	}
	for y := range h {
		visit(y * w)
		visit(y*w + w - 1)
	}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		y, x := at/w, at%w
		if y > 0 {
			visit(at - w)
		}
		if y < h-1 {
			visit(at + w)
		}
		if x > 0 {
			visit(at - 1)
		}
		if x < w-1 {
			visit(at + 1)
		}
	}
	for i := range mask {
		mask[i] = !outside[i]
	}
}

// neighbours calls f for the pixels around one, those that share an edge first.
func neighbours(h, w, at int, f func(at int)) {
	y, x := at/w, at%w
	for _, d := range [8][2]int{{-1, 0}, {0, -1}, {0, 1}, {1, 0}, {-1, -1}, {-1, 1}, {1, -1}, {1, 1}} {
		if v, u := y+d[0], x+d[1]; v >= 0 && u >= 0 && v < h && u < w {
			f(v*w + u)
		}
	}
}
