package predict

import (
	_ "embed"
	"html/template"
	"io"
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
		l := line{Result: r, Size: format.Size(r.H, r.W), Median: "–", PixelSize: r.Calibration()}
		var own []float64
		for _, p := range r.Particles {
			px = append(px, p.Diameter)
			if p.DiameterNM != nil {
				own = append(own, *p.DiameterNM)
			}
		}
		nm = append(nm, own...)
		if len(own) > 0 {
			l.Median = format.Digits(stats.Median(own), 3) + " nm"
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
