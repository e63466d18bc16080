package thon

import (
	"math"
	"slices"
)

// View is what one micrograph says of its focus.
type View struct {
	*Surface
	Skewness Skewness
}

// Look measures and fits an image and tells its side of focus.
func Look(im Image, o Optics) (*View, error) {
	s, err := Measure(im)
	if err != nil {
		return nil, err
	}
	v := &View{Surface: s.Fit(o)}
	v.Skewness, err = Side(im, o, v.Best)
	return v, err
}

// Geometry is what is known of the specimen.
type Geometry struct {
	// Radius is the range of the particles' radii in Å. They lie on the side of the
	// support that the beam meets first.
	Radius [2]float64
}

// Candidate is a value of the particles' underfocus in Å, and its standard error.
type Candidate struct {
	Underfocus, Error float64
	// Probability of this side of focus.
	Probability float64
}

// Focus is the focus of micrographs of one session.
type Focus struct {
	// Rings is how much better, in ln of the likelihood, spectra with rings of the best
	// common defocus explain the images than spectra without.
	Rings float64
	// Score is the pooled skewness in standard errors.
	Score float64
	// Candidates are the more probable side of focus and the other one; none where
	// the images show no rings or nothing can be said within MostError.
	Candidates []Candidate
	// Spread is the standard deviation of the underfocus from image to image in Å; 0
	// where two images or one do not tell.
	Spread float64
}

// Told reports whether the side of focus is known.
func (f *Focus) Told() bool {
	return len(f.Candidates) > 0 && f.Candidates[0].Probability >= toldFrom
}

const (
	// MostError in Å: beyond it the defocus counts as unknown.
	MostError = 40.0
	// leastRings is ln of the likelihood ratio that rings need, since two parameters are
	// searched over hundreds of values, and leastPerImage what they need more for every
	// image, whose own thickness and defocus are free within bounds.
	leastRings, leastPerImage = 10.0, 1.5
	// toldFrom is the probability of a side from which on it counts as known.
	toldFrom = 0.995
	// Systematic error in Å of a film's defocus, by the model of its spectrum: see
	// README.md.
	systematic = 10.0
	// scoreCap bounds what all images say of the side, in standard errors.
	scoreCap = 4.0
	// outliers is the share of images about which the model may be wrong.
	outliers   = 0.05
	stepSearch = 2.0 // Å
)

// commonSpread is the standard deviation in Å of the defocus between images that count
// as evidence for one common defocus: the study's.
const commonSpread = 15.0

// spreads are the standard deviations in Å of the defocus between images that are
// tried; of two images or one, only the first.
var spreads = []float64{4, 8, 15, 25, 40}

// Locate combines the views of images that were taken at one defocus, up to a spread
// that is found with it. Of a single image the answer is its own.
func Locate(views []View, g Geometry) *Focus {
	f := &Focus{}
	if len(views) == 0 {
		return f
	}
	most := math.Inf(1)
	value, weight, scores := 0.0, 0.0, 0.0
	for _, v := range views {
		most = min(most, v.Defocus[len(v.Defocus)-1])
		if e := v.Skewness.Error; e > 0 {
			value += v.Skewness.Value / (e * e)
			weight += 1 / (e * e)
			scores += v.Skewness.Score()
		}
	}
	// What is known of the side before is nothing, also of how skewed the images should
	// be: the pooled score is that of a normal distribution, and every image has its
	// share in it.
	share := 0.0
	if weight > 0 {
		f.Score = value / math.Sqrt(weight)
		z := min(scoreCap, math.Abs(f.Score)) / math.Sqrt2
		odds := math.Log(math.Erfc(-z) / math.Erfc(z))
		if sum := math.Abs(scores); sum > 0 && scores*f.Score > 0 {
			share = odds / (2 * sum)
		}
	}
	radius := (g.Radius[0] + g.Radius[1]) / 2
	radiusVariance := (g.Radius[1] - g.Radius[0]) * (g.Radius[1] - g.Radius[0]) / 12

	spreads := spreads
	if len(views) < 3 {
		spreads = spreads[:1]
	}
	var grid []float64
	for u := -most - radius - mostThickness/2; u <= most; u += stepSearch {
		grid = append(grid, u)
	}
	f.Rings = math.Inf(-1)
	for _, u := range grid {
		sum := 0.0
		for _, v := range views {
			sum += v.profile(u, radius, 2*math.Sqrt(commonSpread*commonSpread+radiusVariance))
		}
		f.Rings = max(f.Rings, sum)
	}
	if f.Rings < leastRings+leastPerImage*float64(len(views)) {
		return f
	}
	total := make([]float64, len(grid)) // the posterior, over spreads
	best, bySpread := math.Inf(-1), make([]float64, len(spreads))
	all := make([][]float64, len(spreads))
	for i, s := range spreads {
		all[i] = make([]float64, len(grid))
		sigma := math.Sqrt(s*s + radiusVariance + stepDefocus*stepDefocus/12.)
		for _, v := range views {
			v.add(all[i], grid, radius, sigma, share)
		}
		best = max(best, slices.Max(all[i]))
	}
	for i := range spreads {
		for j, l := range all[i] {
			p := math.Exp(l - best)
			total[j] += p
			bySpread[i] += p
		}
	}
	mass := 0.0
	for i, p := range bySpread {
		f.Spread += p * spreads[i]
		mass += p
	}
	if f.Spread /= mass; len(spreads) == 1 {
		f.Spread = 0
	}

	// the middle of the support is in focus where the particles are overfocused by
	// their distance
	offset, weight := 0.0, 0.0
	for _, v := range views {
		for i, row := range v.Log {
			for _, l := range row {
				p := math.Exp(l)
				offset += p * (radius + v.Thickness[i]/2)
				weight += p
			}
		}
	}
	focus := -offset / weight
	split, _ := slices.BinarySearch(grid, focus)
	for _, part := range [][2]int{{0, split}, {split, len(grid)}} {
		if c, ok := candidate(grid[part[0]:part[1]], total[part[0]:part[1]]); ok {
			c.Probability /= mass
			f.Candidates = append(f.Candidates, c)
		}
	}
	slices.SortFunc(f.Candidates, func(a, b Candidate) int {
		if a.Probability > b.Probability {
			return -1
		}
		return 1
	})
	if len(f.Candidates) == 0 || f.Candidates[0].Error > MostError {
		f.Candidates = nil
	}
	return f
}

// add adds ln of the probability of a view to the particles' underfoci. share is what a
// standard error of its skewness says of the side.
func (v *View) add(to, grid []float64, radius, sigma, share float64) {
	score := share * v.Skewness.Score()
	last := v.Defocus[len(v.Defocus)-1]
	norm := 0.0
	for _, row := range v.Log {
		for _, l := range row {
			norm += math.Exp(l)
		}
	}
	reach := int(4*sigma/stepDefocus) + 1
	for i, u := range grid {
		sum := 0.0
		for k, row := range v.Log {
			film := u + radius + v.Thickness[k]/2
			at := int(math.Abs(film)/stepDefocus + 0.5)
			part := 0.0
			for j := max(0, at-reach); j <= min(len(row)-1, at+reach); j++ {
				if row[j] < -30 {
					continue
				}
				d := (v.Defocus[j] - math.Abs(film)) / sigma
				part += math.Exp(row[j] - d*d/2)
			}
			// the atoms' side counts where the film is out of focus by more than sigma
			side := math.Erf(film / sigma)
			sum += part * math.Exp(score*side)
		}
		p := sum / norm / (sigma * math.Sqrt(2*math.Pi))
		to[i] += math.Log((1-outliers)*p + outliers*math.Exp(-math.Abs(score))/(2*last))
	}
}

// profile is ln of how much better a view is explained by rings, the particles'
// underfocus being u up to a distance, than without.
func (v *View) profile(u, radius, distance float64) float64 {
	best := math.Inf(-1)
	for k, row := range v.Log {
		film := math.Abs(u + radius + v.Thickness[k]/2)
		from := max(0, int(math.Ceil((film-distance)/stepDefocus)))
		to := min(len(row)-1, int((film+distance)/stepDefocus))
		for j := from; j <= to; j++ {
			best = max(best, row[j])
		}
	}
	return max(v.Surface.Rings+best, -leastRings) // one image does not outvote all others
}

// candidate is the median of some underfoci, half the range that holds the middle
// 68 % of their probability with the systematic error, and all of their probability.
func candidate(grid, p []float64) (Candidate, bool) {
	all := 0.0
	for _, v := range p {
		all += v
	}
	if all == 0 {
		return Candidate{}, false
	}
	at := func(share float64) float64 {
		sum := 0.0
		for i, v := range p {
			if sum+v >= share*all {
				return grid[i] + stepSearch*((share*all-sum)/v-0.5)
			}
			sum += v
		}
		return grid[len(grid)-1]
	}
	half := (at(0.84) - at(0.16)) / 2
	return Candidate{at(0.5), math.Sqrt(half*half + systematic*systematic), all}, true
}
