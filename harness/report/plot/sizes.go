package plot

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Sizes draws a histogram of positive sizes with the log-normal distribution that
// fits them best, and says its median and its spread.
func Sizes(title, xLabel string, sizes []float64) *Drawing {
	const w, h, left, right, top = 560.0, 260.0, 48.0, 12.0, 44.0
	const bottom = h - 40
	d := newDrawing(w, h, title)
	d.text(8, 16, "start", bold, title)
	low, high := math.Inf(1), 0.0
	for _, v := range sizes {
		low, high = min(low, v), max(high, v)
	}
	if !(high > low) {
		d.text(w/2, h/2, "middle", "", "too few sizes to draw")
		return d
	}
	bins := min(max(int(math.Ceil(math.Sqrt(float64(len(sizes))))), 5), 40)
	begin, end := 0.0, high*1.02
	width := (end - begin) / float64(bins)
	counts := make([]int, bins)
	most := 0.0
	for _, v := range sizes {
		b := min(bins-1, int((v-begin)/width))
		counts[b]++
		most = max(most, float64(counts[b]))
	}
	median, sigma := stats.LogNormal(sizes)
	density := func(x float64) float64 { // in counts per bin
		z := math.Log(x/median) / sigma
		return float64(len(sizes)) * width * math.Exp(-z*z/2) / (x * sigma * math.Sqrt(2*math.Pi))
	}
	var curve [][2]float64
	if sigma > 0 {
		for i := 1; i <= 200; i++ {
			x := begin + (end-begin)*float64(i)/200
			y := density(x)
			most = max(most, y)
			curve = append(curve, [2]float64{x, y})
		}
	}
	at := func(x float64) float64 { return left + (w-left-right)*(x-begin)/(end-begin) }
	up := func(n float64) float64 { return bottom - (bottom-top)*n/most }
	for b, n := range counts {
		if n > 0 {
			x := begin + float64(b)*width
			d.rect(at(x), up(float64(n)), at(x+width)-at(x)-0.5, bottom-up(float64(n)), fmt.Sprintf(`fill="%s" fill-opacity="0.75"`, palette[0]),
				fmt.Sprintf("%s to %s: %d", format.Digits(x, 3), format.Digits(x+width, 3), n))
		}
	}
	for i := range curve {
		curve[i] = [2]float64{at(curve[i][0]), up(curve[i][1])}
	}
	if curve != nil {
		d.path(curve, fmt.Sprintf(`stroke="%s" stroke-width="2"`, palette[1]))
		d.text(8, 34, "start", tick, fmt.Sprintf("log-normal fit: median %s, geometric standard deviation %s, of %d", format.Digits(median, 3), format.Digits(math.Exp(sigma), 3), len(sizes)))
	}
	d.line(left, bottom, w-right, bottom, axisInk)
	for i := range 6 {
		x := begin + (end-begin)*float64(i)/5
		d.text(at(x), bottom+15, "middle", tick, format.Digits(x, 3))
	}
	d.text(left-6, top+4, "end", tick, format.Digits(most, 3))
	d.text(left-6, bottom+4, "end", tick, "0")
	d.text((left+w-right)/2, h-6, "middle", faint, xLabel)
	return d
}
