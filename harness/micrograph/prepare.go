package micrograph

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Options of Prepare. The zero value repairs.
type Options struct {
	NoRepair bool // pixels stay as they are; missing ones are refused
	Flatten  bool
	// Rows and Columns are how many pixels of the network cover a pixel of the
	// image: the ratio of their sizes; 0: 1, no resampling.
	Rows, Columns float64
}

// Prepared is an image for a network.
type Prepared struct {
	Image
	Defects Defects  // in the pixels of the file
	Notes   []string // about what was done to this image or should be
}

const (
	// unevenFrom is the relative deviation of the illumination from which on it
	// is worth a word; that of the study's images is 0.02.
	unevenFrom = 0.08
	// farFrom is how far apart two pixel sizes may be before the result is in
	// doubt: details of one do not exist in the other.
	farFrom = 4
	// maxPixels bounds a resampled image, as imagefile does those of files.
	maxPixels = 1 << 28
)

// Prepare repairs an image in place and returns it at the network's pixel size,
// flattened if asked for. What is left is to standardise it.
func Prepare(im *Image, o Options) (*Prepared, error) {
	if len(im.Pixels) != im.H*im.W || im.Bad != nil && len(im.Bad) != im.H*im.W {
		return nil, fmt.Errorf("%d pixels and %d marks for an image of %d×%d", len(im.Pixels), len(im.Bad), im.H, im.W)
	}
	p := &Prepared{}
	if o.NoRepair {
		for i, v := range im.Pixels {
			if v-v != 0 {
				return nil, fmt.Errorf("pixel (%d, %d) is %g, and images are not to be repaired", i/im.W, i%im.W, v)
			}
		}
	} else {
		var err error
		if p.Defects, err = Repair(im); err != nil {
			return nil, err
		}
		if s := p.Defects.String(); s != "" {
			p.Notes = append(p.Notes, s)
		}
	}
	h, err := scaled(im.H, o.Rows)
	if err != nil {
		return nil, err
	}
	w, err := scaled(im.W, o.Columns)
	if err != nil {
		return nil, err
	}
	if h > maxPixels/w {
		return nil, fmt.Errorf("resampled to the network's pixel size the image has %d×%d pixels, more than %d", h, w, maxPixels)
	}
	for _, f := range []float64{o.Rows, o.Columns} {
		if f > farFrom || f > 0 && f < 1./farFrom {
			p.Notes = append(p.Notes, fmt.Sprintf("pixels of %s times the size that the network was trained on: the result is in doubt", format.Digits(f, 2)))
			break
		}
	}
	p.Image = *im.AtSize(h, w, p.Defects)
	l := Illuminate(&p.Image, FlatSigma)
	if o.Flatten {
		l.Flatten(&p.Image)
	} else if l.Uneven > unevenFrom {
		p.Notes = append(p.Notes, fmt.Sprintf("the illumination varies by %s of its mean: --flatten divides by it", format.Percent(l.Uneven)))
	}
	return p, nil
}

// scaled is the number of pixels of the network that n pixels are.
func scaled(n int, factor float64) (int, error) {
	if factor == 0 {
		return n, nil
	}
	v := math.Round(float64(n) * factor)
	if !(v >= 1 && v <= maxPixels) {
		return 0, fmt.Errorf("resampled to the network's pixel size %d pixels are %g", n, v)
	}
	return int(v), nil
}

// AtSize is a copy of a repaired image with other pixels, bad where most of one is.
// Blind areas, which Repair filled smoothly, have noise of the usual deviation, for a
// network takes what is smoother than any image for an object.
func (im *Image) AtSize(h, w int, d Defects) *Image {
	out := &Image{H: h, W: w, Pixels: Resample(im.Pixels, im.H, im.W, h, w)}
	if im.Bad == nil {
		return out
	}
	out.Bad = resampleMask(im.Bad, im.H, im.W, h, w)
	if d.Blind == nil {
		return out
	}
	side := min(flatWindow, h, w)
	var all []float32
	for y := 0; y+side <= h; y += side {
		for x, v := range localDeviation(out, out.Bad, y, side) {
			if x%side == 0 && v == v {
				all = append(all, float32(v))
			}
		}
	}
	slices.Sort(all)
	deviation := quantile(all, 0.5)
	if !(deviation > 0) {
		return out
	}
	for i, b := range resampleMask(d.Blind, im.H, im.W, h, w) {
		if b {
			out.Pixels[i] += float32(deviation * noise(uint64(i)))
		}
	}
	return out
}

func resampleMask(mask []bool, fromH, fromW, h, w int) []bool {
	weight := make([]float32, len(mask))
	for i, b := range mask {
		if b {
			weight[i] = 1
		}
	}
	out := make([]bool, h*w)
	for i, v := range ResampleProbability(weight, fromH, fromW, h, w) {
		out[i] = v > 0.5
	}
	return out
}

// noise is a number of an almost normal distribution of mean 0 and variance 1, the
// same for an index on every machine: the sum of twelve uniform ones of 16 bits
// (Irwin and Hall), hashed by SplitMix64.
func noise(index uint64) float64 {
	var sum uint64
	for k := range uint64(3) {
		z := (3*index + k + 1) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		sum += z&0xffff + z>>16&0xffff + z>>32&0xffff + z>>48
	}
	return (float64(sum) - 6*0xffff) / 0x10000
}
