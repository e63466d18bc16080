package report

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// page renders index.html.
// recipes is where the few lines for every program are.
const recipes = "https://github.com/refocus-em/refocus/blob/main/harness/onnx/README.md#recipes"

func (in *Input) page(sections []section, c *Comparison, sum *Summary, digest string) ([]byte, error) {
	type sheet struct {
		Caption string
		URI     template.URL
	}
	var sheets []sheet
	for _, p := range in.Sheets {
		sheets = append(sheets, sheet{p.Caption, template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(p.PNG))})
	}
	s := in.Plan.Study
	var first *section // the figures to see before the findings
	if len(sections) > 0 {
		first, sections = &sections[0], sections[1:]
	}
	var elsewhere []claims.Finding
	for _, f := range c.Findings {
		if !f.Ours.Applies() {
			elsewhere = append(elsewhere, f)
		}
	}
	var b strings.Builder
	err := pageTemplate.Execute(&b, map[string]any{
		"Title": s.Title, "Name": s.Name, "Profile": s.ProfileName(),
		"Done": len(in.Models), "Models": in.Plan.Models(),
		"Summary": sum.Lines, "Comparison": c, "Sections": sections, "Sheets": sheets,
		"Environment": in.Environment, "Failures": in.Failures, "Exported": in.Exported, "Multiple": in.Multiple, "Dice": in.Dice, "Recipes": recipes,
		"Attribution": reference.Attribution, "Reduced": in.reduced(), "Offset": in.offset() > 0,
		"ResultsDigest": digest, "Elsewhere": elsewhere, "Once": s.Kind == study.Transfer && s.Training.Initialisations == 1, "First": first,
		"Draws": stats.Draws, "Redraws": in.redraws(), "Notebook": in.notebook(),
	})
	return []byte(b.String()), err
}

var pageFuncs = template.FuncMap{
	// class names an outcome for the style sheet.
	"class": func(outcome string) string {
		return map[string]string{claims.Holds: "yes", claims.Fails: "no", claims.Open: "open", claims.Unjudged: "open"}[outcome]
	},
	"sentence": func(s string) string {
		if s == "" {
			return s
		}
		return strings.ToUpper(s[:1]) + s[1:] + "."
	},
	"interval": claims.Interval,
	// limits writes those of a test.
	"limits": func(t claims.Test) string {
		switch {
		case t.Low != nil && t.High != nil:
			return fmt.Sprintf(" (asked for: between %s and %s)", format.Digits(*t.Low, 3), format.Digits(*t.High, 3))
		case t.Low != nil:
			return " (asked for: above " + format.Digits(*t.Low, 3) + ")"
		case t.High != nil:
			return " (asked for: below " + format.Digits(*t.High, 3) + ")"
		}
		return ""
	},
	"value": func(v float64) string { return format.Digits(v, 3) },
	"p": func(v float64) string {
		if v < 1e-4 {
			return "< 0.0001"
		}
		return "= " + format.Digits(v, 2)
	},
}

//go:embed page.html
var pageSource string

// pageTemplate is the whole report: it loads nothing from anywhere.
var pageTemplate = template.Must(template.New("report").Funcs(pageFuncs).Parse(pageSource))
