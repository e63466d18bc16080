package crosscheck

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"math"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// Write puts certificate.json and certificate.html into dir.
func (c *Certificate) Write(dir string) error {
	if err := files.Mkdir(dir); err != nil {
		return err
	}
	clean := *c
	clean.Checks = slices.Clone(c.Checks)
	for i := range clean.Checks {
		clean.Checks[i].finite()
	}
	if c.First != nil {
		first := *c.First
		first.finite()
		clean.First = &first
	}
	b, err := json.MarshalIndent(clean, "", " ")
	if err != nil {
		return err
	}
	if err := files.Write(filepath.Join(dir, "certificate.json"), append(b, '\n')); err != nil {
		return err
	}
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, c.view()); err != nil {
		return err
	}
	return files.Write(filepath.Join(dir, "certificate.html"), page.Bytes())
}

// finite replaces infinity and what is no number, which JSON lacks, by the largest
// number.
func (c *Check) finite() {
	for _, d := range []*Distance{&c.A, &c.B} {
		for _, v := range []*float64{&d.Relative, &d.MaxULP, &d.MedianULP, &c.Bound, &c.Local, &c.Expected, &c.Limit} {
			if !(*v <= math.MaxFloat64) { // also NaN
				*v = math.MaxFloat64
			}
		}
	}
}

// view is what the page shows.
type view struct {
	*Certificate
	Sections  []viewSection
	Operators []viewOperator
	Plot      template.HTML
	Intervals template.HTML // of whole trainings
}

type viewSection struct {
	Stage  string
	Failed int
	Checks []Check
}

// viewOperator is the worst forward error of an operator's nodes.
type viewOperator struct {
	Operator string
	Nodes    int
	Worst    Check
}

func (c *Certificate) view() view {
	v := view{Certificate: c, Plot: template.HTML(c.plot())}
	if c.Convergence != nil {
		v.Intervals = template.HTML(c.Convergence.plot())
	}
	at := map[string]int{}
	for _, stage := range Stages {
		s := viewSection{Stage: stage}
		for _, k := range c.Checks {
			if k.Stage != stage {
				continue
			}
			s.Checks = append(s.Checks, k)
			if !k.Pass {
				s.Failed++
			}
			if stage == Forward {
				i, ok := at[k.Operator]
				if !ok {
					i = len(v.Operators)
					at[k.Operator] = i
					v.Operators = append(v.Operators, viewOperator{Operator: k.Operator})
				}
				v.Operators[i].Nodes++
				if k.A.Relative >= v.Operators[i].Worst.A.Relative {
					v.Operators[i].Worst = k
				}
			}
		}
		if len(s.Checks) > 0 {
			v.Sections = append(v.Sections, s)
		}
	}
	return v
}

//go:embed certificate.html
var pageSource string

var pageTemplate = template.Must(template.New("certificate").Funcs(template.FuncMap{
	"sci": func(v float64) string { return format.Digits(min(v, math.MaxFloat64), 2) },
	"num": func(v float64) string { return format.Digits(v, 4) },
	"ulp": func(v float64) string { return format.Digits(v, 3) },
	"ms":  format.Milliseconds,
}).Parse(pageSource))
