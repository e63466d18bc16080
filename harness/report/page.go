package report

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
)

// page renders index.html.
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
	var elsewhere []Finding
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
		"Environment": in.Environment, "Failures": in.Failures, "Exported": in.Exported, "Browser": in.Browser,
		"Attribution": reference.Attribution, "Reduced": in.reduced(), "Offset": in.offset() > 0,
		"ResultsDigest": digest, "Elsewhere": elsewhere, "Once": s.Training.Initialisations == 1, "First": first,
	})
	return []byte(b.String()), err
}

var pageFuncs = template.FuncMap{
	// class names an outcome for the style sheet.
	"class": func(outcome string) string {
		return map[string]string{Holds: "yes", Fails: "no", Unjudged: "open"}[outcome]
	},
	"sentence": func(s string) string {
		if s == "" {
			return s
		}
		return strings.ToUpper(s[:1]) + s[1:] + "."
	},
	"value": func(v float64) string { return fmt.Sprintf("%.3g", v) },
	"p": func(v float64) string {
		if v < 1e-4 {
			return "< 0.0001"
		}
		return fmt.Sprintf("= %.2g", v)
	},
}

// pageTemplate is the whole report: it loads nothing from anywhere.
var pageTemplate = template.Must(template.New("report").Funcs(pageFuncs).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Name}} ({{.Profile}}) – refocus</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #fff; --line: #d7dbe0; --soft: #f4f6f8; --accent: #0b63a5; --yes: #12714f; --no: #a8420a; --open: #59626c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --ground: #14171a; --line: #363d45; --soft: #1d2227; --accent: #6cb6f2; --yes: #4cc79b; --no: #f0935a; --open: #a5aeb8; } }
* { box-sizing: border-box; }
body { color: var(--ink); background: var(--ground); font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.4rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.6rem; border-bottom: 1px solid var(--line); padding-bottom: 0.25rem; }
a { color: var(--accent); } p, li { max-width: 50rem; } ul { padding-left: 1.3rem; }
.lead { background: var(--soft); border-left: 4px solid var(--accent); padding: 0.7rem 1.2rem; border-radius: 4px; margin: 1rem 0; }
.lead ul { margin: 0.3rem 0; } .lead b.head { display: block; }
.warn { border-left-color: var(--no); }
.row { display: grid; grid-template-columns: 1fr; gap: 1.2rem 1.5rem; margin: 1rem 0 1.6rem; }
@media (min-width: 62rem) { .row.two { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
figure { margin: 0; min-width: 0; } figure svg, figure img { display: block; max-width: 100%; height: auto; }
figcaption { font-size: 0.84rem; opacity: 0.8; max-width: 40rem; margin-top: 0.3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; margin: 0.6rem 0; }
td, th { border-bottom: 1px solid var(--line); padding: 0.35rem 1rem 0.35rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
table.findings td:nth-child(2) { min-width: 20rem; } table.findings td:nth-child(n+3) { white-space: nowrap; }
.yes { color: var(--yes); } .no { color: var(--no); } .open { color: var(--open); } .yes, .no { font-weight: 600; }
details { margin: 0.35rem 0 0; } summary { cursor: pointer; color: var(--accent); font-size: 0.85rem; }
.why { display: block; color: var(--open); font-size: 0.85rem; }
.part { font-size: 0.86rem; margin: 0.5rem 0 0.5rem 0.8rem; } .part p { margin: 0.1rem 0; }
code { font-size: 0.86em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; font-size: 0.85rem; opacity: 0.8; border-top: 1px solid var(--line); }
@media print { details > * { display: block; } }
</style>
</head>
<body>
<main>
<h1>{{.Title}}</h1>
<p>Series <b>{{.Name}}</b>, profile <b>{{.Profile}}</b>: {{.Done}} of {{.Models}} models trained.</p>
<div class="lead">
<b class="head">What to look at first</b>
<ul>
{{range .Summary}}<li>{{sentence .}}</li>
{{end}}{{with .Comparison.Note}}<li>{{.}}</li>
{{end}}<li>The figures below show ours beside the published ones, where these exist. Every model's numbers are in <a href="results.csv">results.csv</a>, in the columns of the published table; where each lies in the store in <a href="models.csv">models.csv</a>; the findings in <a href="claims.json">claims.json</a>.</li>
{{with .Exported}}<li>The best model is in <a href="{{.}}">{{.}}</a>, certified; open it with ONNX Runtime, OpenCV, QuPath, deepImageJ, ….</li>
{{end}}{{with .Browser}}<li>Try it on your own images in this browser, on this machine: <a href="{{.}}">{{.}}</a>.</li>
{{end}}</ul>
</div>
{{with .Failures}}<div class="lead warn"><b class="head">What failed</b><ul>{{range .}}<li>{{.}}</li>{{end}}</ul></div>
{{end}}{{define "judgement"}}<span class="{{class .Outcome}}">{{.Outcome}}</span>{{end -}}
{{define "parts"}}{{range .Parts}}<div class="part"><p>{{with .Statement}}{{.}} {{end}}<span class="{{class .Outcome}}">{{.Outcome}}</span>{{with .Reason}}: {{.}}{{end}}</p>
{{if .Numbers}}<p>{{range $i, $n := .Numbers}}{{if $i}}; {{end}}{{$n.Name}}: {{value $n.Value}}{{with $n.Models}} ({{.}} models){{end}}{{end}}</p>
{{end}}{{range .Effects}}<p>{{.Name}}: median ratio {{value .Ratio}}{{with .Interval}}, 95 % interval {{value (index . 0)}}–{{value (index . 1)}}{{end}}; below 1 in {{.Below}} of {{.Pairs}} matched configurations, sign test p {{p .P}}</p>
{{end}}</div>{{end}}{{end -}}
{{define "section"}}<h2>{{.Title}}</h2>
{{range .Text}}<p>{{.}}</p>
{{end}}{{range .Rows}}<div class="row{{if gt (len .) 1}} two{{end}}">
{{range .}}<figure>{{.SVG}}<figcaption>{{.Caption}}{{with .Table}}
<details><summary>as a table</summary><div class="scroll"><table><tr><td></td>{{range .Columns}}<th scope="col" class="n">{{.}}</th>{{end}}</tr>
{{range .Rows}}<tr><th scope="row">{{.Name}}</th>{{range .Cells}}<td class="n">{{.}}</td>{{end}}</tr>
{{end}}</table></div></details>{{end}}</figcaption></figure>
{{end}}</div>
{{end}}
{{end -}}
{{define "finding"}}<tr><th scope="row">{{.Number}}</th><td>{{.Text}}{{if ne .Ours.Outcome "holds"}}<span class="why">Ours: {{.Ours.Why}}</span>{{end}}
<details><summary>the numbers</summary>
{{with .Ours}}{{with .On}}<p class="part"><b>On {{.}}</b></p>{{end}}{{template "parts" .}}{{end}}
{{with .Published}}{{with .On}}<p class="part"><b>On {{.}}</b></p>{{else}}<p class="part"><b>Published</b></p>{{end}}{{template "parts" .}}{{end}}
</details></td><td>{{template "judgement" .Published}}</td><td>{{template "judgement" .Ours}}</td></tr>
{{end -}}
{{with .First}}{{template "section" .}}{{end -}}
<h2 id="findings">The published findings</h2>
<p>Each finding is checked by the same rule on the published table and on our models. Where a finding compares models that differ in one thing only, the sign test&#39;s interval of the median ratio decides; configurations that share a pretrained model are not independent, so that intervals are rather too narrow. Statements without an interval compare medians as they are{{if .Once}}; here each configuration was trained from one random initialisation only, so that these rest on few pretrained models{{end}}.</p>
<div class="scroll"><table class="findings">
<thead><tr><th scope="col">#</th><th scope="col">Finding</th><th scope="col">Published table</th><th scope="col">Ours</th></tr></thead>
<tbody>
{{range .Comparison.Findings}}{{if .Ours.Applies}}{{template "finding" .}}{{end}}{{end}}</tbody></table></div>
{{with .Elsewhere}}<details><summary>Findings that this study is not about ({{len .}})</summary>
<div class="scroll"><table class="findings"><tbody>
{{range .}}{{template "finding" .}}{{end}}</tbody></table></div></details>
{{end}}<p>{{.Attribution}}</p>
{{range .Sections}}{{template "section" .}}{{end}}{{if .Comparison.Rows}}<h2>Ours and published in numbers</h2>
<p>Median over models of the best validation loss on the target, above its minimum; in brackets the number of models. {{.Comparison.Note}}</p>
<div class="scroll"><table>
<thead><tr><th scope="col">By</th><th scope="col"></th><th scope="col" class="n">Ours</th><th scope="col" class="n">Published</th></tr></thead>
<tbody>
{{range .Comparison.Rows}}<tr><td>{{.Group}}</td><td>{{.Name}}</td><td class="n">{{.OursText}}</td><td class="n">{{.PublishedText}}</td></tr>
{{end}}</tbody></table></div>
{{end}}{{with .Sheets}}<h2>Images, labels and predictions</h2>
{{range .}}<div class="row"><figure><img src="{{.URI}}" alt="{{.Caption}}"><figcaption>{{.Caption}}</figcaption></figure></div>
{{end}}{{end}}{{with .Reduced}}<h2>What differs from the published study</h2>
<ul>{{range .}}<li>{{.}}</li>
{{end}}</ul>{{end}}
<h2>How this was made</h2>
<div class="scroll"><table>
{{range .Environment}}<tr><th scope="row">{{.Name}}</th><td>{{.Text}}</td></tr>
{{end}}<tr><th scope="row">results.csv</th><td>SHA-256 <code>{{.ResultsDigest}}</code>: equal for equal specs, images and backend numerics</td></tr>
</table></div>
{{if .Offset}}<p>Losses are the cross entropy that the study used, applied to the softmax output as if it were logits, less its least value ln(1+e⁻¹) = 0.3133.</p>
{{end}}</main>
<footer><p>{{.Attribution}}</p></footer>
</body>
</html>
`))
