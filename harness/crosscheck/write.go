package crosscheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/store"
)

// Write puts certificate.json and certificate.html into dir.
func (c *Certificate) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	// JSON has no infinity, which stands for a value that is no number.
	clean := *c
	clean.Checks = append([]Check(nil), c.Checks...)
	for i := range clean.Checks {
		for _, d := range []*Distance{&clean.Checks[i].A, &clean.Checks[i].B} {
			for _, v := range []*float64{&d.Relative, &d.MaxULP, &d.MedianULP} {
				*v = min(*v, math.MaxFloat64)
			}
		}
	}
	if c.First != nil {
		first := *c.First
		first.A.Relative, first.A.MaxULP, first.A.MedianULP = min(first.A.Relative, math.MaxFloat64), min(first.A.MaxULP, math.MaxFloat64), min(first.A.MedianULP, math.MaxFloat64)
		clean.First = &first
	}
	b, err := json.MarshalIndent(clean, "", " ")
	if err != nil {
		return err
	}
	if err := store.WriteFile(filepath.Join(dir, "certificate.json"), append(b, '\n')); err != nil {
		return err
	}
	var page bytes.Buffer
	if err := pageTemplate.Execute(&page, c.view()); err != nil {
		return err
	}
	return store.WriteFile(filepath.Join(dir, "certificate.html"), page.Bytes())
}

// view is what the page shows.
type view struct {
	*Certificate
	Sections  []viewSection
	Operators []viewOperator
	Plot      template.HTML
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

// plot draws every loss's distance to the oracle's over the steps, on a
// logarithmic axis.
func (c *Certificate) plot() string {
	if len(c.Trajectory) < 3 {
		return ""
	}
	const w, h, left, bottom, top = 640, 260, 70, 40, 14
	oracle := c.Trajectory[2].Loss
	low, high := math.Inf(1), 0.0
	distances := func(t Curve) []float64 {
		d := make([]float64, len(t.Loss))
		for i := range d {
			d[i] = max(math.Abs(t.Loss[i]-oracle[i]), 1e-12)
		}
		return d
	}
	for i, t := range c.Trajectory {
		if i != 2 {
			for _, d := range distances(t) {
				low, high = min(low, d), max(high, d)
			}
		}
	}
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if high <= low {
		high = low * 10
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" role="img" aria-label="Distance of the losses to the oracle's over the steps" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">`, w, h, w)
	y := func(v float64) float64 { return top + (h-top-bottom)*math.Log(high/v)/math.Log(high/low) }
	x := func(i int) float64 {
		return left + (w-left-10)*float64(i)/float64(max(1, len(oracle)-1))
	}
	for e := math.Round(math.Log10(low)); e <= math.Round(math.Log10(high)); e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="currentColor" stroke-opacity="0.2"/><text x="%d" y="%.1f" text-anchor="end">1e%.0f</text>`, left, w-10, y(v), y(v), left-6, y(v)+4, e)
	}
	for i, t := range c.Trajectory {
		if i == 2 {
			continue
		}
		style := `stroke="currentColor" stroke-opacity="0.25"`
		if i < 2 {
			style = fmt.Sprintf(`stroke="%s" stroke-width="2.2"`, []string{"#0072b2", "#d55e00"}[i])
		}
		var path strings.Builder
		for k, d := range distances(t) {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[k == 0], x(k), y(d))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" %s><title>%s</title></path>`, &path, style, template.HTMLEscapeString(t.Name))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">training step, 1 to %d</text></svg>`, (left+w)/2, h-10, len(oracle))
	return b.String()
}

var pageTemplate = template.Must(template.New("certificate").Funcs(template.FuncMap{
	"sci": func(v float64) string { return fmt.Sprintf("%.1e", v) },
	"ulp": func(v float64) string { return fmt.Sprintf("%.3g", v) },
	"ms":  func(v float64) string { return fmt.Sprintf("%.1f ms", 1e3*v) },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.A.Description.Name}} against {{.B.Description.Name}} – refocus cross-check</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #fff; --line: #d7dbe0; --soft: #f3f5f7; --good: #00795a; --bad: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --ground: #14171a; --line: #333a42; --soft: #1d2227; --good: #35c99a; --bad: #ff8a5c; } }
body { color: var(--ink); background: var(--ground); font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } p { max-width: 46rem; }
.verdict { background: var(--soft); border-left: 4px solid var(--good); padding: .6rem 1rem; border-radius: 4px; } .verdict.fail { border-color: var(--bad); }
table { border-collapse: collapse; font-size: .85rem; } td, th { border-bottom: 1px solid var(--line); padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; } .fail td:first-child { color: var(--bad); font-weight: 600; }
summary { cursor: pointer; } svg { max-width: 100%; height: auto; } .key span { margin-right: 1.2rem; }
</style></head><body>
<h1>Cross-check of {{.A.Description.Name}} against {{.B.Description.Name}}</h1>
<p class="verdict{{if not .Pass}} fail{{end}}">{{.Verdict}}</p>
<p>Both were given the same weights and the same batches of the network {{.Network}} and compared with an oracle in float64. {{.A.Description.Name}} passes a comparison where its relative distance is at most {{.Options.Factor}} times the larger of {{.B.Description.Name}}'s own and of what one float32 rounding of the weights does to the oracle, or under a floor: {{sci .Options.ForwardFloor}} for values of the forward pass, {{sci .Options.GradientFloor}} for gradients, {{sci .Options.LocalFloor}} for what is computed from its own numbers, {{sci .Options.LossFloor}} for losses. ULPs are units of the float32 spacing at the oracle's value or at the values' root mean square, whichever is larger.</p>
<table>
<tr><th></th><th>A</th><th>B</th><th>oracle</th></tr>
<tr><th>backend</th><td>{{.A.Description.Name}} {{.A.Description.Version}}</td><td>{{.B.Description.Name}} {{.B.Description.Version}}</td><td>{{.Oracle.Description.Name}} {{.Oracle.Description.Version}}, float64</td></tr>
<tr><th>numerics</th><td>{{.A.Description.Numerics}}</td><td>{{.B.Description.Numerics}}</td><td>{{.Oracle.Description.Numerics}}</td></tr>
<tr><th>executable</th><td>{{with .A.SHA256}}{{.}}{{else}}built in{{end}}</td><td>{{with .B.SHA256}}{{.}}{{else}}built in{{end}}</td><td>{{with .Oracle.SHA256}}{{.}}{{else}}built in{{end}}</td></tr>
<tr><th>device</th><td>{{range .A.Description.Devices}}{{.Name}}: {{.Info}}<br>{{end}}</td><td>{{range .B.Description.Devices}}{{.Name}}: {{.Info}}<br>{{end}}</td><td>{{range .Oracle.Description.Devices}}{{.Name}}: {{.Info}}<br>{{end}}</td></tr>
<tr><th>training step</th><td>{{ms .A.StepSeconds}}</td><td>{{ms .B.StepSeconds}}</td><td></td></tr>
</table>
<p>Steps are medians of interleaved steps on {{.Machine}}. Batches of {{.Options.Batch}}, {{.Options.Steps}} steps at a learning rate of {{.Options.LearningRate}}. Weights {{.Weights}}, images {{.Data}}.</p>
<h2>Per operator, forward in training mode</h2>
<table><tr><th>operator</th><th>nodes</th><th>largest distance</th><th>of B there</th><th>largest ULP</th><th>median ULP</th><th>at</th></tr>
{{range .Operators}}<tr{{if not .Worst.Pass}} class="fail"{{end}}><td>{{.Operator}}</td><td class="n">{{.Nodes}}</td><td class="n">{{sci .Worst.A.Relative}}</td><td class="n">{{sci .Worst.B.Relative}}</td><td class="n">{{ulp .Worst.A.MaxULP}}</td><td class="n">{{ulp .Worst.A.MedianULP}}</td><td>{{.Worst.Place}}</td></tr>
{{end}}</table>
<h2>Trajectory</h2>
<p>Distance of the training loss to the oracle's after each step; thin lines: the same backends from weights that were rounded once.</p>
<p class="key"><span style="color:#0072b2">▬ {{.A.Description.Name}}</span><span style="color:#d55e00">▬ {{.B.Description.Name}}</span></p>
{{.Plot}}
{{range .Sections}}<h2>{{.Stage}}</h2>
<details{{if .Failed}} open{{end}}><summary>{{len .Checks}} comparisons{{if .Failed}}, {{.Failed}} failed{{end}}</summary>
<table><tr><th>place</th><th>A</th><th>B</th><th>one rounding</th><th>limit</th><th>largest ULP</th><th>median ULP</th><th></th></tr>
{{range .Checks}}<tr{{if not .Pass}} class="fail"{{end}}><td>{{.Place}}</td><td class="n">{{sci .A.Relative}}</td><td class="n">{{sci .B.Relative}}</td><td class="n">{{sci .Rounding}}</td><td class="n">{{sci .Limit}}</td><td class="n">{{ulp .A.MaxULP}}</td><td class="n">{{ulp .A.MedianULP}}</td><td>{{.Note}}</td></tr>
{{end}}</table></details>
{{end}}</body></html>
`))
