package report

import (
	"context"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Summary is what a report found, for the terminal.
type Summary struct {
	Index string // path of index.html
	Lines []string
}

// figure is a drawing with its caption, and the file it is also written to.
type figure struct {
	File    string
	Caption string
	SVG     template.HTML
}

// section groups figures under a heading.
type section struct {
	Title   string
	Text    []string
	Figures []figure
}

// Build writes the report of the input into dir.
func Build(ctx context.Context, in Input, dir string) (*Summary, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	sum := &Summary{Index: filepath.Join(dir, "index.html")}
	var sections []section
	if len(in.Models) > 0 && in.Plan.Study.Kind == study.Transfer {
		s, err := in.matrices(sum)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s)
	}
	if len(in.Models) > 0 {
		sections = append(sections, in.histories())
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	csv, err := in.resultsCSV()
	if err != nil {
		return nil, err
	}
	if err := store.WriteFile(filepath.Join(dir, "results.csv"), csv); err != nil {
		return nil, err
	}
	for _, s := range sections {
		for _, f := range s.Figures {
			if err := store.WriteFile(filepath.Join(dir, f.File), []byte(f.SVG)); err != nil {
				return nil, err
			}
		}
	}
	page, err := in.page(sections, sum)
	if err != nil {
		return nil, err
	}
	return sum, store.WriteFile(sum.Index, page)
}

// label writes a domain's key for an axis.
func (in *Input) label(key string) string {
	if in.axis() == "defocus" {
		if v, err := strconv.ParseFloat(key, 64); err == nil {
			return strings.Replace(fmt.Sprintf("%+g", v/10), "-", "−", 1)
		}
	}
	return strings.ReplaceAll(key, "_", " ")
}

// unit names the axis of the domains.
func (in *Input) unit() string {
	switch in.axis() {
	case "defocus":
		return "defocus in nm"
	case "dose":
		return "dose in e⁻/Å²"
	}
	return in.axis()
}

// matrices are the heat maps before and after transfer beside the published ones.
func (in *Input) matrices(sum *Summary) (section, error) {
	s := section{Title: "Before and after transfer"}
	before, after := in.transfers()
	var pub [2]*Matrix
	if in.axis() == "defocus" {
		var err error
		if pub[0], pub[1], err = publishedDefocus(); err != nil {
			return s, err
		}
	}
	for i, m := range []*Matrix{before, after} {
		stage := []string{"before", "after"}[i]
		s.Figures = append(s.Figures, figure{
			File:    stage + ".svg",
			Caption: fmt.Sprintf("Ours, %s transfer: median over the models of the best validation loss.", stage),
			SVG:     template.HTML(heatMap(m, "Ours, "+stage+" transfer", "pretrained at "+in.unit(), "evaluated at "+in.unit(), in.label)),
		})
		if pub[i] == nil {
			continue
		}
		s.Figures = append(s.Figures, figure{
			File:    stage + "-published.svg",
			Caption: fmt.Sprintf("Published, %s transfer. %s", stage, reference.Attribution),
			SVG:     template.HTML(heatMap(pub[i], "Published, "+stage+" transfer", "pretrained at "+in.unit(), "evaluated at "+in.unit(), in.label)),
		})
		rho, n := spearman(m.flat(m), pub[i].flat(m))
		line := fmt.Sprintf("%s transfer, our medians and the published ones have the rank correlation %s over %d cells (Spearman's ρ).", strings.ToUpper(stage[:1])+stage[1:], corr(rho), n)
		s.Text = append(s.Text, line)
		sum.Lines = append(sum.Lines, fmt.Sprintf("rank correlation with the published medians %s transfer: %s over %d cells", stage, corr(rho), n))
	}
	return s, nil
}

func corr(v float64) string {
	if math.IsNaN(v) {
		return "undefined (too few or equal values)"
	}
	return fmt.Sprintf("%+.2f", v)
}

// histories plots the validation loss on the target over the epochs of both
// stages, the median over models of each frozen part.
func (in *Input) histories() section {
	groups := map[string][][]float64{}
	var order []string
	boundary := 0.0
	for _, m := range in.Models {
		name := m.Run.Frozen + " frozen"
		if in.Plan.Study.Kind == study.Mixture {
			name = fmt.Sprintf("learning rate %s", rate(m.Run.LearningRate))
		}
		if groups[name] == nil {
			order = append(order, name)
		}
		var v []float64
		if m.Pretrain != nil {
			for _, e := range m.Pretrain.Epochs {
				v = append(v, e.Validation[m.Run.Target.Key].Loss-in.offset())
			}
			boundary = float64(len(v)) + 0.5
		}
		for _, e := range m.Final.Epochs {
			v = append(v, e.Validation[m.Run.Target.Key].Loss-in.offset())
		}
		groups[name] = append(groups[name], v)
	}
	colours := map[string]string{}
	var curves []curve
	for i, name := range order {
		colours[name] = palette[i%len(palette)]
		longest := 0
		for _, v := range groups[name] {
			longest = max(longest, len(v))
		}
		mid := make([]float64, longest)
		for e := range mid {
			var at []float64
			for _, v := range groups[name] {
				if e < len(v) {
					at = append(at, v[e])
				}
			}
			mid[e] = median(at)
		}
		curves = append(curves, curve{name: name, values: mid})
	}
	caption := "Validation loss on the target domain after every epoch, median over models."
	if boundary > 0 {
		caption += " Transfer begins at the dashed line, from the best epoch of the pretraining."
	}
	return section{Title: "Loss histories", Figures: []figure{{
		File: "histories.svg", Caption: caption,
		SVG: template.HTML(lines("Loss on the target domain", "epoch", "validation loss above its minimum", curves, colours, boundary)),
	}}}
}

func (in *Input) page(sections []section, sum *Summary) ([]byte, error) {
	type sheet struct {
		Caption string
		URI     template.URL
	}
	var sheets []sheet
	for _, p := range in.Sheets {
		sheets = append(sheets, sheet{p.Caption, template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(p.PNG))})
	}
	models := 0
	for _, r := range in.Plan.Runs {
		if r.Kind != study.PretrainRun {
			models++
		}
	}
	s := in.Plan.Study
	profile := s.Profile
	if profile == "" {
		profile = "base"
	}
	var b strings.Builder
	err := pageTemplate.Execute(&b, map[string]any{
		"Title": s.Title, "Name": s.Name, "Profile": profile,
		"Done": len(in.Models), "Models": models,
		"Summary": sum.Lines, "Sections": sections, "Sheets": sheets,
		"Environment": in.Environment, "Failures": in.Failures, "Exported": in.Exported,
		"Attribution": reference.Attribution, "Reduced": in.reduced(), "Offset": in.offset() > 0,
	})
	return []byte(b.String()), err
}

// reduced says in which ways the study is smaller than the published one.
func (in *Input) reduced() []string {
	s := in.Plan.Study
	var r []string
	if s.Network.Width != 64 {
		r = append(r, fmt.Sprintf("The network has base width %d; the published one 64.", s.Network.Width))
	}
	if m, p := s.Simulation, study.Defaults().Simulation; len(s.Own) == 0 && m != p {
		r = append(r, fmt.Sprintf("The simulated field is %g Å of %d samples (published: %g Å of %d), images have %d×%d pixels of %.3g Å (512×512 of 0.2 Å), particles radii of %g to %g Å, the carbon %g to %g Å, and %d frozen-phonon configurations are averaged (8).",
			m.Cell, m.Grid, p.Cell, p.Grid, m.Crop, m.Crop, m.Cell/float64(m.Output), m.Radius[0], m.Radius[1], m.Carbon[0], m.Carbon[1], m.Phonons))
		r = append(r, fmt.Sprintf("The wave is band-limited to %.3g Å⁻¹ (published: 3.33 Å⁻¹), and an equal dose per area gives %.3g times the counts per pixel. Absolute losses are therefore not comparable with the published ones; orderings are.",
			float64(m.Grid)/m.Cell/3, (m.Cell/float64(m.Output))*(m.Cell/float64(m.Output))/0.04))
	}
	if s.Kind == study.Transfer && s.Training.PretrainSharing == study.ShareSeed {
		r = append(r, "Transfers of one domain, learning rate and initialisation share their pretrained model; in the published study each had its own.")
	}
	return r
}
