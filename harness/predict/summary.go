package predict

import (
	_ "embed"
	"html/template"
	"io"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/stats"
)

//go:embed summary.html
var summaryHTML string

var summaryPage = template.Must(template.New("summary").Parse(summaryHTML))

// writeSummary writes the page over all images: counts, the distribution of sizes
// and the overlays.
func writeSummary(w io.Writer, results []Result, leftOut []string) error {
	type line struct {
		Result
		Size, Median, PixelSize string
	}
	var lines []line
	var nm, px []float64
	for _, r := range results {
		l := line{Result: r, Size: format.Size(r.H, r.W), Median: format.None, PixelSize: r.Calibration()}
		if m, unit := r.MedianDiameter(); !math.IsNaN(m) {
			l.Median = format.Digits(m, 3) + " " + unit
		}
		for _, p := range r.Particles {
			px = append(px, p.Diameter)
			if p.DiameterNM != nil {
				nm = append(nm, *p.DiameterNM)
			}
		}
		lines = append(lines, l)
	}
	unit, sizes := "nm", nm
	if len(nm) < len(px) { // not all are known: pixels are what can be drawn together
		unit, sizes = "pixels", px
	}
	d := plot.Sizes("Sizes of particles", "equivalent diameter in "+unit, slices.Clone(sizes))
	return summaryPage.Execute(w, map[string]any{
		"Lines": lines, "Total": len(px), "LeftOut": leftOut, "Sizes": template.HTML(d.Inline()),
	})
}

// Diameters are the equivalent diameters of the image's particles, and their unit: nm
// where the size of a pixel is known, else pixels.
func (r *Result) Diameters() (d []float64, unit string) {
	for _, p := range r.Particles {
		switch {
		case r.PixelHeight == 0:
			d = append(d, p.Diameter)
		case p.DiameterNM != nil:
			d = append(d, *p.DiameterNM)
		}
	}
	if r.PixelHeight > 0 {
		return d, "nm"
	}
	return d, "pixels"
}

// MedianDiameter is the median of Diameters, NaN where there are no particles.
func (r *Result) MedianDiameter() (median float64, unit string) {
	d, unit := r.Diameters()
	return stats.Median(d), unit
}
