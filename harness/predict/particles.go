package predict

import (
	"cmp"
	"math"

	"github.com/refocus-em/refocus/harness/measure"
)

// Particle is a connected region of pixels that are not background.
type Particle struct {
	measure.Region
	Label       int     // grey value in the label image, from 1
	Class       uint8   // of most of its pixels
	Probability float64 // mean over its pixels
	Mean, Sum   float64 // of the image over its pixels
	Cut         bool    // touches the image's border or a blind area
	Shape       measure.Shape
	NM          *measure.Shape // in nm; nil where the pixel size is not known
}

// ParticleOptions say what counts as a particle.
type ParticleOptions struct {
	// Threshold of the probability, above which a pixel is one of a particle; 0:
	// DefaultThreshold.
	Threshold float64
	// MinArea leaves out particles of fewer pixels.
	MinArea int
	// MinDiameter leaves out particles of a smaller equivalent diameter in nm,
	// where the pixel size is known.
	MinDiameter   float64
	FillHoles     bool    // what is enclosed by a particle is part of it
	Split         bool    // by a watershed
	SplitDepth    float64 // of necks, see measure.Split; 0: measure.DefaultSplitDepth
	ExcludeBorder bool    // leave out what is cut

	// Height and Width of a pixel in nm; 0 if unknown.
	Height, Width float64 `json:"-"`
	// Blind areas, in which nothing is found; nil for none.
	Blind []bool `json:"-"`
	// Image whose intensities are measured; nil for none.
	Image []float32 `json:"-"`
}

// leastArea is how many pixels a particle has at least.
func (o ParticleOptions) leastArea() float64 {
	least := float64(o.MinArea)
	if o.Height > 0 && o.Width > 0 {
		least = max(least, math.Pi/4*o.MinDiameter*o.MinDiameter/(o.Height*o.Width))
	}
	return least
}

// Particles numbers the particles of the segmentation in the order of their first
// pixels and measures them. Pixels that touch at a corner are connected. The label
// image has the size of the segmentation, 0 is background. small is how many were
// left out for their size.
func Particles(s *Segmentation, o ParticleOptions) (labels []int32, particles []Particle, small int) {
	threshold := float32(DefaultThreshold)
	if o.Threshold > 0 {
		threshold = float32(o.Threshold)
	}
	mask := make([]bool, s.H*s.W)
	for i, p := range s.Probability {
		mask[i] = p > threshold && !(o.Blind != nil && o.Blind[i])
	}
	if o.FillHoles {
		measure.FillHoles(s.H, s.W, mask)
	}
	var n int
	if o.Split {
		labels, n = measure.Split(s.H, s.W, mask, cmp.Or(o.SplitDepth, measure.DefaultSplitDepth))
	} else {
		labels, n = measure.Components(s.H, s.W, mask)
	}
	least := o.leastArea()
	area, cut := make([]int, n+1), make([]bool, n+1)
	for i, l := range labels {
		if l == 0 {
			continue
		}
		area[l]++
		y, x := i/s.W, i%s.W
		if y == 0 || x == 0 || y == s.H-1 || x == s.W-1 ||
			o.Blind != nil && (o.Blind[i-1] || o.Blind[i+1] || o.Blind[i-s.W] || o.Blind[i+s.W]) {
			cut[l] = true
		}
	}
	keep := make([]bool, n+1)
	for l := 1; l <= n; l++ {
		keep[l] = float64(area[l]) >= least
		if !keep[l] {
			small++
		} else if o.ExcludeBorder && cut[l] {
			keep[l] = false
		}
	}
	var cuts []bool
	for i, l := range labels {
		if !keep[l] {
			labels[i] = 0
		}
	}
	for l := range keep { // numbers are in the order of the first pixels, and stay so
		if keep[l] {
			cuts = append(cuts, cut[l])
		}
	}
	n = measure.Renumber(labels)
	particles = make([]Particle, n)
	votes := make([][256]int32, n) // pixels of every class
	for i, l := range labels {
		if l == 0 {
			continue
		}
		p := &particles[l-1]
		p.Probability += float64(s.Probability[i])
		if o.Image != nil {
			p.Sum += float64(o.Image[i])
		}
		votes[l-1][s.Class[i]]++
	}
	for i, r := range measure.Regions(s.H, s.W, labels, n) {
		p := &particles[i]
		p.Region, p.Label, p.Cut = r, i+1, cuts[i]
		p.Probability /= float64(r.Area)
		p.Mean = p.Sum / float64(r.Area)
		p.Shape = r.Shape(1, 1)
		if o.Height > 0 && o.Width > 0 {
			nm := r.Shape(o.Height, o.Width)
			p.NM = &nm
		}
		p.Class = 1 // of the classes but the background, the first wins a draw
		for c := 2; c < 256; c++ {
			if votes[i][c] > votes[i][p.Class] {
				p.Class = uint8(c)
			}
		}
	}
	return labels, particles, small
}
