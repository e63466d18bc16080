package report

import "html/template"

// pageTemplate is the whole report: it loads nothing from anywhere.
var pageTemplate = template.Must(template.New("report").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Name}} ({{.Profile}}) – refocus</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #fff; --line: #d7dbe0; --soft: #f3f5f7; --accent: #0b63a5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --ground: #14171a; --line: #333a42; --soft: #1d2227; --accent: #6cb6f2; } }
body { color: var(--ink); background: var(--ground); font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.4rem 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; border-bottom: 1px solid var(--line); padding-bottom: 0.2rem; }
a { color: var(--accent); } p, li { max-width: 46rem; }
.lead { background: var(--soft); border-left: 4px solid var(--accent); padding: 0.6rem 1rem; border-radius: 4px; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; max-width: 100%; } figure svg, figure img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85rem; opacity: 0.8; max-width: 38rem; }
table { border-collapse: collapse; font-size: 0.9rem; } td, th { border-bottom: 1px solid var(--line); padding: 0.25rem 0.9rem 0.25rem 0; text-align: left; vertical-align: top; }
.warn { border-left-color: #d55e00; } footer { margin-top: 3rem; font-size: 0.85rem; opacity: 0.8; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
<p>Series <b>{{.Name}}</b>, profile <b>{{.Profile}}</b>: {{.Done}} of {{.Models}} models.</p>
<div class="lead">
<ul>
{{range .Summary}}<li>{{.}}</li>
{{end}}<li>Every model's numbers are in <a href="results.csv">results.csv</a>, in the columns of the published table.</li>
{{with .Exported}}<li>The best model is in <a href="{{.}}">{{.}}</a>, certified; open it with ONNX Runtime, OpenCV, QuPath, deepImageJ, ….</li>
{{end}}</ul>
</div>
{{with .Failures}}<div class="lead warn"><p>Runs that failed:</p><ul>{{range .}}<li>{{.}}</li>{{end}}</ul></div>{{end}}
{{with .Reduced}}<h2>What differs from the published study</h2>
<ul>{{range .}}<li>{{.}}</li>
{{end}}</ul>{{end}}
{{range .Sections}}<h2>{{.Title}}</h2>
{{range .Text}}<p>{{.}}</p>
{{end}}<div class="figures">
{{range .Figures}}<figure>{{.SVG}}<figcaption>{{.Caption}}</figcaption></figure>
{{end}}</div>
{{end}}{{with .Sheets}}<h2>Images, labels and predictions</h2>
<div class="figures">
{{range .}}<figure><img src="{{.URI}}" alt="{{.Caption}}"><figcaption>{{.Caption}}</figcaption></figure>
{{end}}</div>
{{end}}<h2>How this was made</h2>
<table>
{{range .Environment}}<tr><th scope="row">{{.Name}}</th><td>{{.Text}}</td></tr>
{{end}}</table>
{{if .Offset}}<p>Losses are the cross entropy that the study used, applied to the softmax output as if it were logits, less its least value ln(1+e⁻¹) = 0.3133.</p>
{{end}}<footer><p>{{.Attribution}}</p></footer>
</body>
</html>
`))
