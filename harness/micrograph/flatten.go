package micrograph

import "math"

// Illumination is an image's background: its mean over a Gaussian of the given
// standard deviation in pixels, bad pixels left out. Uneven is the standard
// deviation of it relative to its mean, NaN where the mean is not positive; 0 where
// the noise of the pixels explains it.
type Illumination struct {
	h, w   int // in blocks
	block  int
	values []float64
	Uneven float64
	lowest float64
	mean   float64
}

// FlatSigma is the Gaussian's standard deviation, in pixels of the network: of
// the size of the study's particles and of a larger scale than its contrast.
const FlatSigma = 64

// Illuminate measures the background of an image.
func Illuminate(im *Image, sigma float64) *Illumination {
	// The mean of a wide Gaussian needs no more than blocks of an eighth of it.
	b := max(1, int(sigma/8))
	l := &Illumination{h: (im.H + b - 1) / b, w: (im.W + b - 1) / b, block: b}
	sum, weight := make([]float64, l.h*l.w), make([]float64, l.h*l.w)
	var n, first, second float64
	for y := range im.H {
		for x := range im.W {
			if i := y*im.W + x; im.Bad == nil || !im.Bad[i] {
				sum[y/b*l.w+x/b] += float64(im.Pixels[i])
				weight[y/b*l.w+x/b]++
				v := float64(im.Pixels[i])
				n, first, second = n+1, first+v, second+float64(v*v)
			}
		}
	}
	s := sigma / float64(b)
	sum, weight = blur(l.h, l.w, sum, s), blur(l.h, l.w, weight, s)
	l.values = sum
	l.lowest = math.Inf(1)
	var total, square float64
	for i := range l.values {
		if weight[i] > 0 {
			l.values[i] /= weight[i]
			l.mean += l.values[i]
			l.lowest = min(l.lowest, l.values[i])
			total++
		}
	}
	l.mean /= total
	for i := range l.values {
		if weight[i] > 0 {
			square += (l.values[i] - l.mean) * (l.values[i] - l.mean)
		} else { // nothing good is near
			l.values[i] = l.mean
		}
	}
	l.Uneven = math.NaN()
	if l.mean > 0 {
		l.Uneven = math.Sqrt(square/total) / l.mean
		noise := math.Sqrt(max(0, second/n-first/n*(first/n)) / (4 * math.Pi * sigma * sigma))
		if l.Uneven*l.mean < 4*noise {
			l.Uneven = 0
		}
	}
	return l
}

// Flatten divides an image by its illumination and multiplies it by the mean of
// that; where the illumination is not positive throughout, as in an image whose
// mean was taken away, it subtracts it.
func (l *Illumination) Flatten(im *Image) {
	for y := range im.H {
		fy := (float64(y)+0.5)/float64(l.block) - 0.5
		for x := range im.W {
			fx := (float64(x)+0.5)/float64(l.block) - 0.5
			at, v := l.at(fy, fx), float64(im.Pixels[y*im.W+x])
			if l.lowest > 0.05*l.mean && l.mean > 0 {
				v *= l.mean / at
			} else {
				v -= at
			}
			im.Pixels[y*im.W+x] = float32(v)
		}
	}
}

// at interpolates between the centres of blocks.
func (l *Illumination) at(fy, fx float64) float64 {
	y, x := int(math.Floor(fy)), int(math.Floor(fx))
	ty, tx := fy-float64(y), fx-float64(x)
	get := func(y, x int) float64 {
		return l.values[min(max(y, 0), l.h-1)*l.w+min(max(x, 0), l.w-1)]
	}
	return float64((1-ty)*(float64((1-tx)*get(y, x))+float64(tx*get(y, x+1)))) +
		float64(ty*(float64((1-tx)*get(y+1, x))+float64(tx*get(y+1, x+1))))
}

// blur is a Gaussian, cut off at four standard deviations and at the borders.
func blur(h, w int, v []float64, sigma float64) []float64 {
	radius := int(math.Ceil(4 * sigma))
	kernel := make([]float64, radius+1)
	for i := range kernel {
		kernel[i] = math.Exp(-0.5 * float64(i*i) / (sigma * sigma))
	}
	along := func(v []float64, lines, length, next, step int) []float64 {
		out := make([]float64, len(v))
		for l := range lines {
			for i := range length {
				var s float64
				for j := max(0, i-radius); j <= min(length-1, i+radius); j++ {
					s += float64(kernel[max(i-j, j-i)] * v[l*next+j*step])
				}
				out[l*next+i*step] = s
			}
		}
		return out
	}
	return along(along(v, h, w, w, 1), w, h, 1, w)
}
