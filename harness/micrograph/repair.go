package micrograph

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Image is a grey image of H rows and W columns.
type Image struct {
	H, W   int
	Pixels []float32
	// Bad marks the pixels that are no measurement; nil for none.
	Bad []bool
}

// Defects counts the pixels that Repair filled, by what was wrong with them.
type Defects struct {
	Missing  int // NaN, infinite, or marked in the file
	Outliers int // single hot or dark pixels and small groups of them
	Lines    int // in dead rows and columns
	Dead     int // in areas without signal: dead edges, the outside of an aperture
	Pixels   int // of the image

	// Blind marks the areas of bad pixels too large to be filled with what was
	// there; nil for none. Nothing can be found in them.
	Blind []bool
}

// Total is the number of pixels filled.
func (d Defects) Total() int { return d.Missing + d.Outliers + d.Lines + d.Dead }

// String says what was filled, empty where nothing was.
func (d Defects) String() string {
	var parts []string
	add := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 0 && n < d.Pixels/100:
			parts = append(parts, format.Count(int64(n))+" "+many)
		case n > 0:
			parts = append(parts, fmt.Sprintf("%s of the image, %s", format.Percent(float64(n)/float64(d.Pixels)), many))
		}
	}
	add(d.Missing, "missing pixel", "missing pixels")
	add(d.Outliers, "outlying pixel", "outlying pixels")
	add(d.Lines, "pixel of a dead line", "pixels of dead lines")
	add(d.Dead, "pixel without signal", "pixels without signal")
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + " left out and filled"
}

const (
	// outlierRadius of the square whose median a pixel is compared with.
	outlierRadius = 2
	// outlierFactor times the distance of the 99th percentile from the median:
	// 14 standard deviations of a normal distribution. Counting statistics of any
	// mean and the contrast of atoms stay below; a hot pixel and a saturated one
	// do not.
	outlierFactor = 6
	// outlierGroup is the largest group of outliers: more together are an object.
	outlierGroup = 16
	// flatWindow is the side of the square that is asked for signal.
	flatWindow = 7
	// flatRatio of the local standard deviation that a tenth of the image exceeds
	// is no signal: an area of a twentieth of the counts, or with a camera's dark
	// noise alone.
	flatRatio = 0.2
	// sampled is how many pixels a distribution is estimated from.
	sampled = 1 << 16
)

// Repair finds and fills, in place, what is no image. Missing pixels (not finite,
// or marked as Bad), dead lines and dark or saturated areas without signal are
// filled smoothly from their borders; outliers with the median around them. Bad
// marks them all afterwards. It refuses an image of which less than a hundredth
// is left.
func Repair(im *Image) (Defects, error) {
	n := im.H * im.W
	d := Defects{Pixels: n}
	bad := make([]bool, n)
	for i, v := range im.Pixels {
		if v-v != 0 || im.Bad != nil && im.Bad[i] {
			bad[i] = true
			d.Missing++
		}
	}
	if d.Missing < n {
		d.Dead = deadAreas(im, bad)
		d.Lines = deadLines(im, bad)
	}
	if n-d.Total() < max(n/100, 1) {
		return d, fmt.Errorf("%s: no image is left", strings.TrimSuffix(d.String(), " left out and filled"))
	}
	outliers := findOutliers(im, bad)
	for _, at := range outliers {
		bad[at] = true
	}
	if d.Outliers = len(outliers); d.Total() == 0 {
		im.Bad = nil
		return d, nil
	}
	if d.Total() > d.Outliers {
		fillSmoothly(im, bad)
	}
	var window []float32
	for _, at := range outliers {
		var m float32
		if m, window = medianAround(im, bad, at, window); m == m {
			im.Pixels[at] = m
		}
	}
	im.Bad = bad
	d.Blind = blind(im.H, im.W, bad)
	return d, nil
}

// quantile of values in order.
func quantile(sorted []float32, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return float64(sorted[int(q*float64(len(sorted)-1)+0.5)])
}

// medianAround is the median of the good pixels in the square around a pixel,
// itself left out; NaN if there are none.
func medianAround(im *Image, bad []bool, at int, window []float32) (float32, []float32) {
	y, x := at/im.W, at%im.W
	window = window[:0]
	for v := max(0, y-outlierRadius); v <= min(im.H-1, y+outlierRadius); v++ {
		for u := max(0, x-outlierRadius); u <= min(im.W-1, x+outlierRadius); u++ {
			if i := v*im.W + u; i != at && !bad[i] {
				window = append(window, im.Pixels[i])
			}
		}
	}
	if len(window) == 0 {
		return float32(math.NaN()), window
	}
	slices.Sort(window)
	return window[len(window)/2], window
}

// findOutliers returns the pixels that differ from the median around them by far
// more than the image's pixels do, in groups that are too small to be an object.
func findOutliers(im *Image, bad []bool) []int {
	n := im.H * im.W
	var window []float32
	var residuals []float32
	// an odd step that shares no factor with the width, so that the sample is no
	// single column
	step := n/sampled | 1
	for step > 1 && gcd(step, im.W) > 1 {
		step += 2
	}
	for at := 0; at < n; at += step {
		if bad[at] {
			continue
		}
		var m float32
		if m, window = medianAround(im, bad, at, window); m == m {
			residuals = append(residuals, im.Pixels[at]-m)
		}
	}
	if len(residuals) < 100 {
		return nil
	}
	slices.Sort(residuals)
	spread := func(q float64) float64 { return math.Abs(quantile(residuals, q) - quantile(residuals, 0.5)) }
	reach := func(q, further float64) float64 {
		s := spread(q)
		if s == 0 { // few counts: most pixels are equal
			s = spread(further)
		}
		if s == 0 {
			return math.Inf(1)
		}
		return outlierFactor * s
	}
	above, below := reach(0.99, 0.999), reach(0.01, 0.001)
	candidate := map[int]bool{}
	var order []int
	for at := range im.Pixels {
		if !bad[at] && beyond(im, bad, at, above, below) {
			candidate[at] = true
			order = append(order, at)
		}
	}
	var out []int
	seen := map[int]bool{}
	for _, start := range order {
		if seen[start] {
			continue
		}
		seen[start] = true
		group := []int{start}
		var around float32
		around, window = medianAround(im, bad, start, window)
		alone := true
		for k := 0; k < len(group); k++ {
			y, x := group[k]/im.W, group[k]%im.W
			for v := max(0, y-1); v <= min(im.H-1, y+1); v++ {
				for u := max(0, x-1); u <= min(im.W-1, x+1); u++ {
					i := v*im.W + u
					if candidate[i] {
						if !seen[i] {
							seen[i] = true
							group = append(group, i)
						}
						continue
					}
					// the corner of an object: what is beside it stands out as well
					if d := float64(im.Pixels[i] - around); !bad[i] && (d > above || d < -below) {
						alone = false
					}
				}
			}
		}
		if alone && len(group) <= outlierGroup {
			out = append(out, group...)
		}
	}
	slices.Sort(out)
	return out
}

// beyond tells whether a pixel is further above or below the median around it than
// is given, by counting instead of sorting.
func beyond(im *Image, bad []bool, at int, above, below float64) bool {
	y, x := at/im.W, at%im.W
	v := float64(im.Pixels[at])
	lower, higher, all := 0, 0, 0
	for r := max(0, y-outlierRadius); r <= min(im.H-1, y+outlierRadius); r++ {
		for c := max(0, x-outlierRadius); c <= min(im.W-1, x+outlierRadius); c++ {
			i := r*im.W + c
			if i == at || bad[i] {
				continue
			}
			all++
			if d := v - float64(im.Pixels[i]); d > above {
				lower++
			} else if d < -below {
				higher++
			}
		}
	}
	return lower > all/2 || higher > all/2
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// deadLines marks rows and columns of one value, where the others have many.
func deadLines(im *Image, bad []bool) (marked int) {
	if im.H < flatWindow || im.W < flatWindow {
		return 0
	}
	check := func(lines, length int, at func(line, i int) int) {
		dead := map[int]float32{} // lines and their value
		for l := range lines {
			var first float32
			seen, same := 0, true
			for i := range length {
				if p := at(l, i); !bad[p] {
					if seen == 0 {
						first = im.Pixels[p]
					}
					same = same && im.Pixels[p] == first
					seen++
				}
			}
			if same && seen > length/2 {
				dead[l] = first
			}
		}
		if len(dead) > lines/4 { // an image that is flat as a whole
			return
		}
		// Where counts are rare, a line can have none by chance.
		chance := map[float32]float64{}
		for _, v := range dead {
			chance[v] = 0
		}
		live := 0.0
		for l := range lines {
			if _, ok := dead[l]; ok {
				continue
			}
			for i := range length {
				if p := at(l, i); !bad[p] {
					live++
					if _, ok := chance[im.Pixels[p]]; ok {
						chance[im.Pixels[p]]++
					}
				}
			}
		}
		for l, v := range dead {
			if math.Pow(chance[v]/live, float64(length)/2) > 1e-6 {
				continue
			}
			for i := range length {
				if p := at(l, i); !bad[p] {
					bad[p] = true
					marked++
				}
			}
		}
	}
	check(im.H, im.W, func(l, i int) int { return l*im.W + i })
	check(im.W, im.H, func(l, i int) int { return i*im.W + l })
	return marked
}

// deadAreas marks areas in which the pixels hardly differ, compared with the rest
// of the image, and which are darker than all of it, or saturated.
func deadAreas(im *Image, bad []bool) (marked int) {
	side, usual := signal(im, bad)
	if side == 0 {
		return 0
	}
	h, w := im.H, im.W
	flat := make([]bool, h*w) // covered by a window without signal
	for top := 0; top+side <= h; top++ {
		for x, sd := range localDeviation(im, bad, top, side) {
			if !(sd < flatRatio*usual) {
				continue
			}
			for y := top; y < top+side; y++ {
				for u := x; u < x+side; u++ {
					flat[y*w+u] = true
				}
			}
		}
	}
	// A region is dead if it is dark next to everything that is not flat.
	var rest []float32
	step := max(1, h*w/sampled)
	for i := 0; i < h*w; i += step {
		if !flat[i] && !bad[i] {
			rest = append(rest, im.Pixels[i])
		}
	}
	if len(rest) < 100 {
		return 0
	}
	slices.Sort(rest)
	dark := quantile(rest, 0.02)
	top := float32(math.Inf(-1))
	for i, v := range im.Pixels {
		if !bad[i] {
			top = max(top, v)
		}
	}
	seen := make([]bool, h*w)
	dead := make([]bool, h*w)
	found := false
	for start := range flat {
		if !flat[start] || seen[start] {
			continue
		}
		seen[start] = true
		region := []int{start}
		var sample []float32
		for k := 0; k < len(region); k++ {
			at := region[k]
			if !bad[at] && (len(region) < sampled || k%16 == 0) {
				sample = append(sample, im.Pixels[at])
			}
			y, x := at/w, at%w
			for _, s := range [4][2]int{{y - 1, x}, {y + 1, x}, {y, x - 1}, {y, x + 1}} {
				if s[0] < 0 || s[1] < 0 || s[0] >= h || s[1] >= w {
					continue
				}
				if i := s[0]*w + s[1]; flat[i] && !seen[i] {
					seen[i] = true
					region = append(region, i)
				}
			}
		}
		if len(region) < 2*side*side || len(sample) == 0 {
			continue
		}
		slices.Sort(sample)
		if middle := quantile(sample, 0.5); middle < dark && edge(im, bad, flat, region)-middle > usual || quantile(sample, 0.1) == float64(top) {
			found = true
			for _, at := range region {
				dead[at] = true
			}
		}
	}
	if !found {
		return 0
	}
	// the border of an aperture is not sharp
	dead = dilate(h, w, dead, 2)
	dead = dilate(h, w, dead, penumbra(im, bad, dead, usual))
	for i, v := range dead {
		if v && !bad[i] {
			bad[i] = true
			marked++
		}
	}
	return marked
}

// penumbra is by how many pixels dead areas have to grow until the mean of the pixels
// beside them no longer changes outwards: the border of an aperture that is out of
// focus. usual is the deviation of pixels in a window.
func penumbra(im *Image, bad, dead []bool, usual float64) int {
	const most, ahead = 32, 8
	h, w := im.H, im.W
	far := make([]int32, h*w) // steps to a dead pixel, 0 for not yet reached
	var front []int
	for i, d := range dead {
		if d {
			far[i] = -1
			front = append(front, i)
		}
	}
	var mean [most + ahead + 1]float64
	var count [most + ahead + 1]float64
	for step := 1; step <= most+ahead; step++ {
		var next []int
		for _, at := range front {
			y, x := at/w, at%w
			for v := max(0, y-1); v <= min(h-1, y+1); v++ {
				for u := max(0, x-1); u <= min(w-1, x+1); u++ {
					i := v*w + u
					if far[i] != 0 {
						continue
					}
					far[i] = int32(step)
					next = append(next, i)
					if !bad[i] {
						mean[step] += float64(im.Pixels[i])
						count[step]++
					}
				}
			}
		}
		front = next
	}
	for step := range mean {
		mean[step] /= count[step]
	}
	var dark, n float64
	for i, d := range dead {
		if d && !bad[i] {
			dark, n = dark+float64(im.Pixels[i]), n+1
		}
	}
	dark /= n
	grow := 0
	for ; grow < most; grow++ {
		here, there := grow+1, grow+1+ahead
		chance := 3 * usual * math.Sqrt(1/count[here]+1/count[there])
		change := math.Abs(mean[there] - mean[here])
		if !(change > max(0.05*math.Abs(mean[there]-dark), chance)) { // NaN at the image's end
			break
		}
	}
	return grow
}

// edge is the mean of the good pixels a few pixels away from a region: there a dead
// area ends in a step, the valley of a smooth image does not.
func edge(im *Image, bad, flat []bool, region []int) float64 {
	const away = 3
	var sum float64
	n := 0
	for _, at := range region {
		y, x := at/im.W, at%im.W
		for _, d := range [4][2]int{{-away, 0}, {away, 0}, {0, -away}, {0, away}} {
			v, u := y+d[0], x+d[1]
			if v < 0 || u < 0 || v >= im.H || u >= im.W {
				continue
			}
			if i := v*im.W + u; !flat[i] && !bad[i] {
				sum += float64(im.Pixels[i])
				n++
			}
		}
	}
	return sum / float64(n) // NaN, and no step, where there are none
}

// signal returns the side of windows that tell signal from none, 0 if there are
// none, and the usual deviation in one. Where counts are so rare that many pixels
// have none, a window must be large enough not to be empty by chance.
func signal(im *Image, bad []bool) (side int, usual float64) {
	lowest := float32(math.Inf(1))
	for i, v := range im.Pixels {
		if !bad[i] {
			lowest = min(lowest, v)
		}
	}
	side = flatWindow
	for range 2 {
		if im.H < 2*side || im.W < 2*side {
			return 0, 0
		}
		var sds []float32
		type window struct {
			sd   float32
			y, x int
		}
		var ws []window
		step := max(1, (im.H-side)/100)
		for y := 0; y+side <= im.H; y += step {
			sd := localDeviation(im, bad, y, side)
			for x := 0; x < len(sd); x += max(1, len(sd)/100) {
				if s := sd[x]; s == s {
					sds = append(sds, float32(s))
					ws = append(ws, window{float32(s), y, x})
				}
			}
		}
		if len(sds) == 0 {
			return 0, 0
		}
		slices.Sort(sds)
		usual := quantile(sds, 0.9) // an aperture may leave little of an image
		if side > flatWindow {
			return side, usual
		}
		none, all := 0, 0
		for _, v := range ws {
			if float64(v.sd) < usual/2 {
				continue
			}
			for y := v.y; y < v.y+side; y++ {
				for x := v.x; x < v.x+side; x++ {
					if i := y*im.W + x; !bad[i] {
						all++
						if im.Pixels[i] == lowest {
							none++
						}
					}
				}
			}
		}
		if none == 0 {
			return side, usual
		}
		p := float64(none) / float64(all)
		need := math.Sqrt(2 * 14 / -math.Log(p)) // chance below 1e-6, twice over
		if !(need < 63) {
			return 0, 0
		}
		wide := int(need) | 1
		if wide <= side {
			return side, usual
		}
		side = wide
	}
	return 0, 0
}

// localDeviation returns the standard deviations of the windows of the given side
// whose upper row is top, by their left column. A window with more than half of
// its pixels bad has NaN.
func localDeviation(im *Image, bad []bool, top, side int) []float64 {
	w := im.W
	sum, square, count := make([]float64, w), make([]float64, w), make([]int, w)
	var shift float64 // against cancellation
	for x := range w {
		if !bad[top*w+x] {
			shift = float64(im.Pixels[top*w+x])
			break
		}
	}
	for y := top; y < top+side; y++ {
		for x := range w {
			if i := y*w + x; !bad[i] {
				v := float64(im.Pixels[i]) - shift
				sum[x] += v
				square[x] += float64(v * v)
				count[x]++
			}
		}
	}
	out := make([]float64, w-side+1)
	for x := range out {
		var s, q float64
		c := 0
		for u := x; u < x+side; u++ {
			s, q, c = s+sum[u], q+square[u], c+count[u]
		}
		if 2*c <= side*side {
			out[x] = math.NaN()
			continue
		}
		m := s / float64(c)
		out[x] = math.Sqrt(max(0, q/float64(c)-float64(m*m)))
	}
	return out
}

// dilate grows a mask by a square of the given radius.
func dilate(h, w int, mask []bool, radius int) []bool {
	rows := make([]bool, h*w)
	out := make([]bool, h*w)
	for y := range h {
		for x := range w {
			if mask[y*w+x] {
				for u := max(0, x-radius); u <= min(w-1, x+radius); u++ {
					rows[y*w+u] = true
				}
			}
		}
	}
	for y := range h {
		for x := range w {
			if rows[y*w+x] {
				for v := max(0, y-radius); v <= min(h-1, y+radius); v++ {
					out[v*w+x] = true
				}
			}
		}
	}
	return out
}

// blind marks the bad pixels in whose neighbourhood most are bad.
func blind(h, w int, bad []bool) []bool {
	const radius = 3
	var out []bool
	for at, b := range bad {
		if !b {
			continue
		}
		y, x := at/w, at%w
		n, all := 0, 0
		for v := max(0, y-radius); v <= min(h-1, y+radius); v++ {
			for u := max(0, x-radius); u <= min(w-1, x+radius); u++ {
				all++
				if bad[v*w+u] {
					n++
				}
			}
		}
		if 2*n > all {
			if out == nil {
				out = make([]bool, len(bad))
			}
			out[at] = true
		}
	}
	return out
}

// fillSmoothly gives bad pixels the weighted mean of good ones at the smallest
// scale at which there are any: averages over squares of 2, 4, 8, … pixels are
// interpolated downwards again.
func fillSmoothly(im *Image, bad []bool) {
	type level struct {
		h, w   int
		value  []float64
		weight []float64
	}
	base := level{im.H, im.W, make([]float64, len(bad)), make([]float64, len(bad))}
	for i, b := range bad {
		if !b {
			base.value[i], base.weight[i] = float64(im.Pixels[i]), 1
		}
	}
	levels := []level{base}
	for l := base; l.h > 1 || l.w > 1; {
		u := level{h: (l.h + 1) / 2, w: (l.w + 1) / 2}
		u.value, u.weight = make([]float64, u.h*u.w), make([]float64, u.h*u.w)
		for y := range l.h {
			for x := range l.w {
				at, to := y*l.w+x, y/2*u.w+x/2
				u.value[to] += float64(l.value[at] * l.weight[at])
				u.weight[to] += l.weight[at]
			}
		}
		complete := true
		for i, k := range u.weight {
			if k > 0 {
				u.value[i] /= k
				u.weight[i] = min(k, 1)
			} else {
				complete = false
			}
		}
		levels = append(levels, u)
		l = u
		if complete {
			break
		}
	}
	for k := len(levels) - 2; k >= 0; k-- {
		l, u := levels[k], levels[k+1]
		for y := range l.h {
			for x := range l.w {
				at := y*l.w + x
				if l.weight[at] > 0 {
					continue
				}
				// bilinear between the centres of the squares above
				fy, fx := (float64(y)+0.5)/2-0.5, (float64(x)+0.5)/2-0.5
				y0, x0 := int(math.Floor(fy)), int(math.Floor(fx))
				ty, tx := fy-float64(y0), fx-float64(x0)
				get := func(y, x int) float64 {
					return u.value[min(max(y, 0), u.h-1)*u.w+min(max(x, 0), u.w-1)]
				}
				l.value[at] = float64((1-ty)*(float64((1-tx)*get(y0, x0))+float64(tx*get(y0, x0+1)))) +
					float64(ty*(float64((1-tx)*get(y0+1, x0))+float64(tx*get(y0+1, x0+1))))
			}
		}
	}
	for i, b := range bad {
		if b {
			im.Pixels[i] = float32(levels[0].value[i])
		}
	}
}
