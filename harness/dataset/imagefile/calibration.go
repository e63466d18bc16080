package imagefile

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Calibration is the size of an image's pixels and where it was found. Unknown is
// the zero value.
type Calibration struct {
	// X and Y are the sides of a pixel in Å, along a row and along a column.
	X, Y float64
	// Origin says where in the file the sizes stand, for example
	// "DigitalMicrograph TIFF tag 65009".
	Origin string
}

// Known reports whether the file says its pixel size.
func (c Calibration) Known() bool { return c.X > 0 && c.Y > 0 }

// Side is that of the square of a pixel's area in Å, 0 if unknown: what areas
// are measured with.
func (c Calibration) Side() float64 {
	if c.X == c.Y {
		return c.X
	}
	return math.Sqrt(c.X * c.Y)
}

// Square reports whether both sides are the same to a thousandth.
func (c Calibration) Square() bool { return math.Abs(c.X-c.Y) <= 1e-3*math.Max(c.X, c.Y) }

// Info is what a file says of an image besides its pixels. What it does not say
// is zero.
type Info struct {
	Pixel    Calibration
	Detector string
	// Dose is in electrons per Å², DoseOrigin says where it was found. Where a file
	// says how many electrons a value stands for, a Record has the mean of its
	// pixels.
	Dose       float64
	DoseOrigin string
	// Array is the name of the array, page or detector that holds the image in a
	// file of several.
	Array string
	// Notes are for the reader of results: what was left out, chosen or doubtful.
	Notes []string

	electrons electrons
}

// electrons says how many electrons the value v of a pixel stands for: scale·(v −
// zero). Unknown is the zero value.
type electrons struct {
	scale, zero float64
	origin      string
}

// count takes the dose of an image from its pixels, where the file says what they
// count and how large they are.
func (f *Info) count(pixels []float32, bad []bool) {
	if f.Dose > 0 || !(f.electrons.scale > 0) || !f.Pixel.Known() {
		return
	}
	var sum float64
	n := 0
	for i, v := range pixels {
		if bad == nil || !bad[i] {
			sum += float64(v)
			n++
		}
	}
	if n == 0 {
		return
	}
	dose := f.electrons.scale * (sum/float64(n) - f.electrons.zero) / (f.Pixel.X * f.Pixel.Y)
	if dose > 0 && !math.IsInf(dose, 0) {
		f.Dose, f.DoseOrigin = dose, f.electrons.origin
	}
}

// note adds a line, once.
func (f *Info) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(f.Notes, s) {
		f.Notes = append(f.Notes, s)
	}
}

// calibrate takes the size of a pixel in a unit if it is a length that an electron
// micrograph can have. Otherwise the size stays as it is, and a note says why,
// where there is something to say.
func (f *Info) calibrate(x, y float64, unit, origin string) {
	if !(x != 0 && y != 0) || math.IsInf(x, 0) || math.IsInf(y, 0) {
		return
	}
	x, y = math.Abs(x), math.Abs(y) // some programs count y upwards
	scale, reciprocal := angstroms(unit)
	switch {
	case reciprocal:
		f.note("the file gives a pixel in %s (%s): this is a diffraction pattern or a Fourier transform", unit, origin)
	case scale == 0:
		if !slices.Contains([]string{"", "none", "pixel", "pixels", "px", "<undefined>"}, strings.ToLower(unit)) {
			f.note("the file gives a pixel of %g %s (%s), which is not a length", x, unit, origin)
		}
	case plausible(scale*x) == 0 || plausible(scale*y) == 0:
		f.note("the file gives a pixel of %g × %g %s (%s), which no electron micrograph has: taken as not known", x, y, unit, origin)
	default:
		f.Pixel = Calibration{scale * x, scale * y, origin}
	}
}

// sameUnit states y in the unit of x, where both are lengths.
func sameUnit(x, y float64, unitX, unitY string) (float64, float64, string) {
	sx, _ := angstroms(unitX)
	sy, _ := angstroms(unitY)
	if unitX != unitY && sx > 0 && sy > 0 {
		y *= sy / sx
	}
	return x, y, unitX
}

// Plausible sides of an electron micrograph's pixel in Å. Many programs write
// placeholders such as one metre or one inch in 72.
const minPixel, maxPixel = 1e-3, 1e6

// plausible returns a pixel size in Å if it can be that of an electron
// micrograph, else 0.
func plausible(size float64) float64 {
	if size >= minPixel && size <= maxPixel {
		return size
	}
	return 0
}

// angstroms is the length of a unit, 0 for what is not one, and whether it is
// the reciprocal of a length, or an angle, as diffraction patterns have.
func angstroms(unit string) (scale float64, reciprocal bool) {
	if s, err := strconv.Unquote(`"` + unit + `"`); err == nil { // ImageJ writes \u00B5m
		unit = s
	}
	unit = strings.NewReplacer("[", "", "]", "", "_", "", " ", "").Replace(unit) // NCEM's [n_m]
	switch unit {
	case "pm", "picometer", "picometre":
		return 0.01, false
	case "Å", "\u212b", "A", "Ang", "ang", "angstrom", "Angstrom", "angstroms", "Angstroms": // letter and sign
		return 1, false
	case "nm", "nanometer", "nanometre", "nanometers", "nanometres":
		return 10, false
	case "µm", "\u03bcm", "um", "micron", "microns", "micrometer", "micrometre": // sign and letter
		return 1e4, false
	case "mm", "millimeter":
		return 1e7, false
	case "cm", "centimeter":
		return 1e8, false
	case "inch", "in":
		return 2.54e8, false
	case "m", "meter", "metre":
		return 1e10, false
	case "mrad", "rad":
		return 0, true
	}
	if before, ok := strings.CutSuffix(unit, "^-1"); ok {
		unit = "1/" + before
	}
	if of, ok := strings.CutPrefix(unit, "1/"); ok {
		scale, _ := angstroms(of)
		return 0, scale > 0
	}
	return 0, false
}
