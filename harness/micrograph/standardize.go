package micrograph

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/internal/pixels"
)

// Standardize shifts and scales an image, in place, so that the pixels that are
// not bad have mean 0 and variance 1. Without bad pixels its bits are those of
// pixels.Standardize, by which simulated images are standardised.
func Standardize(im *Image) error {
	if !slices.Contains(im.Bad, true) {
		return pixels.Standardize(im.Pixels, im.W)
	}
	good := make([]float32, 0, len(im.Pixels))
	for i, v := range im.Pixels {
		if !im.Bad[i] {
			good = append(good, v)
		}
	}
	if len(good) == 0 {
		return fmt.Errorf("all %d pixels are bad", len(im.Pixels))
	}
	mean, variance := pixels.Moments(good)
	std := math.Sqrt(variance)
	if !(std > 1e-12*math.Abs(mean)) {
		return fmt.Errorf("every good pixel has the value %g", good[0])
	}
	for i, v := range im.Pixels {
		im.Pixels[i] = float32((float64(v) - mean) / std)
	}
	return nil
}
