package predict

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/pixels"
)

// Preparation is what is done to the pixels of a whole image before the network
// sees it. The zero value does nothing.
type Preparation struct {
	steps []step
	// channels is the last linear step where it is another one for every input
	// channel.
	channels []linear
}

// step is one operation on an image. apply returns why the image cannot be
// prepared so.
type step struct {
	text  string
	apply func(im Image) error
}

// linear is (x − mean)/std.
type linear struct{ mean, std float64 }

// Standardized gives every image zero mean and unit variance.
func Standardized() Preparation {
	return Preparation{steps: []step{{"standardize", func(im Image) error { return pixels.Standardize(im.Pixels, im.W) }}}}
}

// ParsePreparation reads
//
//	standardize           zero mean and unit variance
//	range                 from the least pixel to the largest: 0 to 1
//	percentile:LOW,HIGH   from one percentile to the other: 0 to 1
//	fixed:MEAN,STD        (x − MEAN)/STD; a pair for every channel, separated by slashes
//	none
func ParsePreparation(s string) (Preparation, error) {
	kind, rest, _ := strings.Cut(s, ":")
	pairs := func() (list []linear, err error) {
		for _, p := range strings.Split(rest, "/") {
			a, b, _ := strings.Cut(p, ",")
			x, err := strconv.ParseFloat(strings.TrimSpace(a), 64)
			if err != nil {
				return nil, fmt.Errorf("%q: needs numbers", s)
			}
			y, err := strconv.ParseFloat(strings.TrimSpace(b), 64)
			if err != nil {
				return nil, fmt.Errorf("%q: needs numbers", s)
			}
			list = append(list, linear{x, y})
		}
		return list, nil
	}
	switch {
	case s == "standardize":
		return Standardized(), nil
	case s == "range":
		return Preparation{}.scaled(0, 100, 0)
	case s == "none":
		return Preparation{}, nil
	case kind == "percentile":
		p, err := pairs()
		if err != nil {
			return Preparation{}, err
		}
		return Preparation{}.scaled(p[0].mean, p[0].std, 0)
	case kind == "fixed":
		p, err := pairs()
		if err != nil {
			return Preparation{}, err
		}
		return Preparation{}.fixed(p)
	}
	return Preparation{}, fmt.Errorf("%q is no preparation of images: standardize, range, percentile:LOW,HIGH, fixed:MEAN,STD and none are", s)
}

// String says what is done, as ParsePreparation reads it where it is one step.
func (p Preparation) String() string {
	var s []string
	for _, t := range p.steps {
		s = append(s, t.text)
	}
	for i, c := range p.channels {
		text := fmt.Sprintf("%g,%g", c.mean, c.std)
		if i == 0 {
			s = append(s, "fixed:"+text)
		} else {
			s[len(s)-1] += "/" + text
		}
	}
	if s == nil {
		return "none"
	}
	return strings.Join(s, ", then ")
}

func (p Preparation) with(text string, apply func(im Image) error) Preparation {
	p.steps = append(slices.Clone(p.steps), step{text, apply})
	return p
}

// scaled brings the pixels between two percentiles to 0 and 1.
func (p Preparation) scaled(low, high, epsilon float64) (Preparation, error) {
	if !(low >= 0 && low < high && high <= 100) {
		return p, fmt.Errorf("percentiles %g and %g: the first must be smaller, both from 0 to 100", low, high)
	}
	text := fmt.Sprintf("percentile:%g,%g", low, high)
	if low == 0 && high == 100 {
		text = "range"
	}
	return p.with(text, func(im Image) error {
		sorted := slices.Clone(im.Pixels)
		slices.Sort(sorted)
		a, b := percentile(sorted, low), percentile(sorted, high)
		if !(b > a) {
			return fmt.Errorf("the %gth and the %gth percentile are both %g", low, high, a)
		}
		for i, v := range im.Pixels {
			im.Pixels[i] = float32((float64(v) - a) / (b - a + epsilon))
		}
		return nil
	}), nil
}

// percentile interpolates linearly between the nearest ranks, as NumPy does.
func percentile(sorted []float32, p float64) float64 {
	at := p / 100 * float64(len(sorted)-1)
	i := min(int(at), len(sorted)-1)
	a, b := float64(sorted[i]), float64(sorted[min(i+1, len(sorted)-1)])
	return a + (at-float64(i))*(b-a)
}

// fixed subtracts and divides by constants, one pair or one for every channel.
func (p Preparation) fixed(list []linear) (Preparation, error) {
	for _, l := range list {
		if !(math.Abs(l.mean) <= math.MaxFloat32) || !(l.std > 0 && l.std <= math.MaxFloat32) {
			return p, fmt.Errorf("mean %g and standard deviation %g are out of range", l.mean, l.std)
		}
	}
	if len(list) > 1 {
		p.channels = list
		return p, nil
	}
	l := list[0]
	return p.with(fmt.Sprintf("fixed:%g,%g", l.mean, l.std), func(im Image) error {
		for i, v := range im.Pixels {
			im.Pixels[i] = float32((float64(v) - l.mean) / l.std)
		}
		return nil
	}), nil
}

// Apply prepares the image in place.
func (p Preparation) Apply(im Image) error {
	for i, v := range im.Pixels {
		if v-v != 0 { // NaN for both infinities and NaN
			return fmt.Errorf("pixel (%d, %d) is %g", i/im.W, i%im.W, v)
		}
	}
	for _, s := range p.steps {
		if err := s.apply(im); err != nil {
			return err
		}
	}
	return nil
}
