package outline

import (
	"math"
	"slices"
)

// Point is a place in an image, in pixels from its upper left corner.
type Point struct{ X, Y float64 }

// fill calls set for every pixel of an image of h rows and w columns whose centre
// the closed outlines surround, by the even-odd rule.
func fill(outlines [][]Point, h, w int, set func(pixel int)) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, o := range outlines {
		for _, p := range o {
			low, high = min(low, p.Y), max(high, p.Y)
		}
	}
	if !(low < high) {
		return
	}
	var crossings []float64
	for y := int(max(0, math.Floor(low))); y < h && float64(y) < high; y++ {
		centre := float64(y) + 0.5
		crossings = crossings[:0]
		for _, o := range outlines {
			for i, a := range o {
				b := o[(i+1)%len(o)]
				if (a.Y <= centre) != (b.Y <= centre) {
					crossings = append(crossings, a.X+(centre-a.Y)/(b.Y-a.Y)*(b.X-a.X))
				}
			}
		}
		slices.Sort(crossings)
		for i := 0; i+1 < len(crossings); i += 2 {
			first := max(0, math.Ceil(crossings[i]-0.5))
			for x := first; x < float64(w) && x+0.5 < crossings[i+1]; x++ {
				set(y*w + int(x))
			}
		}
	}
}
