package predict

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"

	"github.com/refocus-em/refocus/harness/measure"
)

// Row is a particle in the table of all images. The names of the columns are those
// of its fields in JSON; what is not known is empty, and null there.
type Row struct {
	File          string   `json:"file"`
	Page          int      `json:"page"`
	Label         int      `json:"label"`
	Class         string   `json:"class"`
	Area          int      `json:"area_px"`
	AreaNM        *float64 `json:"area_nm2"`
	Diameter      float64  `json:"equivalent_diameter_px"`
	DiameterNM    *float64 `json:"equivalent_diameter_nm"`
	Perimeter     float64  `json:"perimeter_px"`
	PerimeterNM   *float64 `json:"perimeter_nm"`
	Circularity   float64  `json:"circularity"`
	FeretMax      float64  `json:"feret_max_px"`
	FeretMaxNM    *float64 `json:"feret_max_nm"`
	FeretMin      float64  `json:"feret_min_px"`
	FeretMinNM    *float64 `json:"feret_min_nm"`
	FeretAngle    float64  `json:"feret_angle_deg"`
	Major         float64  `json:"ellipse_major_px"`
	MajorNM       *float64 `json:"ellipse_major_nm"`
	Minor         float64  `json:"ellipse_minor_px"`
	MinorNM       *float64 `json:"ellipse_minor_nm"`
	Angle         float64  `json:"ellipse_angle_deg"`
	Solidity      float64  `json:"solidity"`
	Mean          float64  `json:"mean_intensity"`
	Sum           float64  `json:"integrated_intensity"`
	Probability   float64  `json:"mean_probability"`
	Y             float64  `json:"centre_y_px"`
	X             float64  `json:"centre_x_px"`
	Top           int      `json:"top_px"`
	Left          int      `json:"left_px"`
	Bottom        int      `json:"bottom_px"`
	Right         int      `json:"right_px"`
	Cut           bool     `json:"touches_border"`
	PixelHeight   *float64 `json:"pixel_height_nm"`
	PixelWidth    *float64 `json:"pixel_width_nm"`
	PixelSizeFrom string   `json:"pixel_size_from"`
}

// row is a particle's line in the table. Circularity and angles are those of the
// pixels' true shape where that is known.
func (r *Result) row(p *Particle, classes []string) Row {
	s := p.Shape
	if p.NM != nil {
		s.Circularity, s.FeretAngle, s.Angle = p.NM.Circularity, p.NM.FeretAngle, p.NM.Angle
	}
	row := Row{
		File: r.Source, Page: r.Page, Label: p.Label, Class: classes[p.Class],
		Area: p.Area, Diameter: p.Diameter(), Perimeter: s.Perimeter, Circularity: s.Circularity,
		FeretMax: s.FeretMax, FeretMin: s.FeretMin, FeretAngle: s.FeretAngle,
		Major: s.Major, Minor: s.Minor, Angle: s.Angle, Solidity: p.Solidity(),
		Mean: p.Mean, Sum: p.Sum, Probability: p.Probability, Y: p.Y, X: p.X,
		Top: p.Top, Left: p.Left, Bottom: p.Bottom, Right: p.Right, Cut: p.Cut,
		PixelSizeFrom: r.PixelSizeFrom,
	}
	if p.NM != nil {
		h, w := r.PixelHeight, r.PixelWidth
		known := func(v float64) *float64 { return &v }
		row.PixelHeight, row.PixelWidth = known(h), known(w)
		row.AreaNM = known(float64(p.Area) * h * w)
		row.DiameterNM = known(measure.DiscDiameter(*row.AreaNM))
		row.PerimeterNM, row.FeretMaxNM, row.FeretMinNM = known(p.NM.Perimeter), known(p.NM.FeretMax), known(p.NM.FeretMin)
		row.MajorNM, row.MinorNM = known(p.NM.Major), known(p.NM.Minor)
	}
	return row
}

// WriteCSV writes the table of particles of several images.
func WriteCSV(w io.Writer, rows []Row) error {
	c := csv.NewWriter(w)
	t := reflect.TypeFor[Row]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("json")
	}
	c.Write(names)
	line := make([]string, len(names))
	for _, r := range rows {
		v := reflect.ValueOf(r)
		for i := range line {
			switch x := v.Field(i).Interface().(type) {
			case float64:
				line[i] = number(x)
			case *float64:
				line[i] = ""
				if x != nil {
					line[i] = number(*x)
				}
			default:
				line[i] = fmt.Sprint(x)
			}
		}
		c.Write(line)
	}
	c.Flush()
	return c.Error()
}

// number has the six digits that a measurement in pixels is good for.
func number(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(v)
}
