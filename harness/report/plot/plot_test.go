package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// TestTicks checks the round values of scales of little, some and much range.
func TestTicks(t *testing.T) {
	for _, c := range []struct {
		scale LogScale
		want  []float64
	}{
		{LogScale{0.95, 2.05}, []float64{1, 1.2, 1.4, 1.6, 1.8, 2}},
		{LogScale{0.8, 21}, []float64{1, 2, 5, 10, 20}},
		{LogScale{0.09, 1500}, []float64{0.1, 1, 10, 100, 1000}},
	} {
		got := c.scale.ticks()
		// Ticks are multiples of powers of ten, right to a few roundings.
		if !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12*b }) {
			t.Errorf("ticks of %v: %v, want %v", c.scale, got, c.want)
		}
	}
}

// keys names domains by their keys.
type keys struct{}

func (keys) Label(key string) string { return key }
func (keys) Name(key string) string  { return key + " nm" }
func (keys) Unit() string            { return "defocus in nm" }
func (keys) Preposition() string     { return "at" }

// TestDrawings draws every kind with values that are missing or alike, and with
// names that SVG would take for its own.
func TestDrawings(t *testing.T) {
	m := &stats.Matrix{
		Rows: []string{"<a>", "b"}, Columns: []string{"<a>", "b"},
		Values: [][]float64{{0.5, math.NaN()}, {0.25, 2}}, Counts: [][]int{{1, 0}, {2, 3}},
	}
	heat := HeatMap(keys{}, m, ScaleOf(m), "A & B", "rows")
	if c := heat.Table.Rows[0].Cells; !slices.Equal(c, []string{".5000", "–"}) {
		t.Errorf("the table's first row is %v", c)
	}
	groups := []stats.Group{{Level: "<a>", Values: []float64{1, 1, math.NaN()}}, {Level: "b"}}
	nan := math.NaN()
	for name, d := range map[string]*Drawing{
		"forest":     Forest("A & B", "x", -1, 1, []string{"a", "<b>"}, []Line{{"<l>", []Mark{{0.5, 0.2, 2}, {nan, nan, nan}}}, {"m", []Mark{{0, nan, nan}}}}),
		"changes":    Changes(keys{}, m, ScaleOf(m), "A & B", "rows", "columns", "<ratio>"),
		"bands":      Lines{Curves: []Curve{{Name: "a", Points: [][2]float64{{1, 2}, {2, 3}}, Low: []float64{1, nan}, High: []float64{3, nan}}, {Name: "b", Points: [][2]float64{{1, 1}}, Like: 1}}}.Draw(),
		"bars":       Lines{Curves: []Curve{{Name: "a", Points: [][2]float64{{1, 2}, {2, 3}}, Low: []float64{1, nan}, High: []float64{3, nan}}}, Dots: true}.Draw(),
		"heat map":   heat.Credit("<credit>"),
		"boxes":      Boxes("A & B", "x", "y", []string{""}, [][]stats.Group{groups}, nil),
		"no boxes":   Boxes("A & B", "x", "y", []string{""}, [][]stats.Group{groups[1:]}, nil),
		"lines":      Lines{Title: "<t>", Curves: []Curve{{Name: "<a>", Points: [][2]float64{{1, 2}, {2, math.NaN()}}}}, Marks: []float64{1, 2}, Dots: true}.Draw(),
		"histograms": Histograms("A & B", "x", []Panel{{Title: "<a>", Groups: []stats.Group{{Level: "b", Values: []float64{1, 2}}}}}),
	} {
		for _, s := range []string{d.Inline(), d.File()} {
			if err := wellFormed(s); err != nil {
				t.Errorf("%s: %v\n%s", name, err, s)
			}
			if strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
				t.Errorf("%s has a coordinate that is no number:\n%s", name, s)
			}
		}
	}
}

func wellFormed(s string) error {
	d := xml.NewDecoder(strings.NewReader(s))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestContrast checks the definition on its known ends, that numbers read on every
// colour of a map, and that the palette stands out from light and dark ground.
func TestContrast(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want float64
	}{{"#000000", "#ffffff", 21}, {"#777777", "#ffffff", 4.48}, {"#123456", "#123456", 1}} {
		if got := Contrast(c.a, c.b); math.Abs(got-c.want) > 0.005 { // as it is usually rounded
			t.Errorf("%s on %s: %.3f, want %.2f", c.a, c.b, got, c.want)
		}
	}
	for _, m := range [][][3]float64{viridis, diverging} {
		for k := range 201 {
			if fill, ink := colour(m, float64(k)/200); Contrast(fill, ink) < 4.5 {
				t.Errorf("%s on %s has %.2f", ink, fill, Contrast(fill, ink))
			}
		}
	}
	for _, c := range palette {
		for _, ground := range []string{"#ffffff", "#14171a"} {
			if Contrast(c, ground) < 3 {
				t.Errorf("%s on %s has %.2f", c, ground, Contrast(c, ground))
			}
		}
	}
}
