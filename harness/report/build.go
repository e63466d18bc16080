package report

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Summary is what a report found, for the terminal.
type Summary struct {
	Index string // path of index.html
	Lines []string
	// Model is the path of the exported best model, Best; "" and nil where there
	// is none.
	Model string
	Best  *trained.Model
}

// Build writes the report of the input into dir: index.html, the figures, the
// tables and the findings. Files of an earlier report of the same study are
// replaced one by one, each whole.
func Build(ctx context.Context, in Input, dir string) (*Summary, error) {
	if err := files.Mkdir(dir); err != nil {
		return nil, err
	}
	c, err := Compare(in)
	if err != nil {
		return nil, err
	}
	sections, err := in.sections(c)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	text, frame := in.results()
	results, err := text.csv()
	if err != nil {
		return nil, err
	}
	pickled, err := frame.pickle()
	if err != nil {
		return nil, err
	}
	models, err := in.modelsCSV()
	if err != nil {
		return nil, err
	}
	medians, err := in.mediansCSV()
	if err != nil {
		return nil, err
	}
	findings, err := in.claimsJSON(c.Findings)
	if err != nil {
		return nil, err
	}
	sum := &Summary{Index: filepath.Join(dir, "index.html")}
	if len(in.Models) > 0 {
		sum.Lines = append(c.lines(), tally(c.Findings))
	}

	type file struct {
		name    string
		content []byte
	}
	contents := []file{{"results.csv", results}, {"results.pkl", pickled}, {"models.csv", models}, {"medians.csv", medians}, {"claims.json", findings}}
	for _, s := range sections {
		for _, row := range s.Rows {
			for _, f := range row {
				contents = append(contents, file{f.Name + ".svg", []byte(f.drawing.File())})
			}
		}
	}
	for i, p := range in.Sheets {
		name := p.Name
		if name == "" {
			name = fmt.Sprintf("images-%d", i+1)
		}
		contents = append(contents, file{name + ".png", p.PNG})
	}
	digest := sha256.Sum256(results)
	page, err := in.page(sections, c, sum, hex.EncodeToString(digest[:]))
	if err != nil {
		return nil, err
	}
	for _, f := range append(contents, file{"index.html", page}) {
		if err := files.Write(filepath.Join(dir, f.name), f.content); err != nil {
			return nil, err
		}
	}
	return sum, nil
}

// reduced says in which ways the study is smaller than the published one.
func (in *Input) reduced() []string {
	s := in.Plan.Study
	d := study.Defaults()
	var r []string
	if s.Network.ONNX != "" {
		r = append(r, fmt.Sprintf("The network is that of %s, its weights %s; the published one is a U-Net of base width %d.", filepath.Base(s.Network.ONNX), s.Network.Weights, d.Network.Width))
	} else if s.Network.Width != d.Network.Width {
		r = append(r, fmt.Sprintf("The network has base width %d; the published one %d.", s.Network.Width, d.Network.Width))
	}
	if m, p := s.Simulation, d.Simulation; len(s.Own) == 0 && (m.Cell != p.Cell || m.Grid != p.Grid || m.Output != p.Output || m.Crop != p.Crop || m.Phonons != p.Phonons) {
		particles := fmt.Sprintf("particles have radii of %g to %g Å", m.Radius[0], m.Radius[1])
		if len(s.Grid.Sizes) > 0 {
			particles = "particles are smaller"
			for _, name := range s.Grid.Sizes {
				particles += fmt.Sprintf(", %s %g to %g Å", name, s.Sizes[name][0], s.Sizes[name][1])
			}
		}
		r = append(r, fmt.Sprintf("The simulated field is %g Å of %d samples (published: %g Å of %d); images have %s pixels of %s (%s of %s); %s; the carbon is %g to %g Å thick; %d frozen-phonon configurations are averaged (%d).",
			m.Cell, m.Grid, p.Cell, p.Grid, format.Size(m.Crop, m.Crop), format.PixelSize(m.Cell/float64(m.Output)), format.Size(p.Crop, p.Crop), format.PixelSize(p.Cell/float64(p.Output)), particles, m.Carbon[0], m.Carbon[1], m.Phonons, p.Phonons))
		area := func(m hrtem.Config) float64 { a := m.Cell / float64(m.Output); return a * a }
		r = append(r, fmt.Sprintf("The wave is band-limited to %.3g Å⁻¹ (published: %.3g Å⁻¹), and an equal dose per area gives %.3g times the counts per pixel. Absolute losses are therefore not comparable with the published ones; orderings are.",
			float64(m.Grid)/m.Cell/3, float64(p.Grid)/p.Cell/3, area(m)/area(p)))
	}
	if g := s.Grid; len(s.Own) == 0 && (g.TrainImages != d.Grid.TrainImages || g.ValidationImages != d.Grid.ValidationImages) {
		r = append(r, fmt.Sprintf("Each domain has %d training images (published: %d) and %d validation images (%d, our choice).", g.TrainImages, d.Grid.TrainImages, g.ValidationImages, d.Grid.ValidationImages))
	}
	switch s.Kind {
	case study.Transfer:
		if p := s.Pretrain; p.Epochs != d.Pretrain.Epochs || p.Images != d.Pretrain.Images || s.Transfer.Epochs != d.Transfer.Epochs {
			r = append(r, fmt.Sprintf("Pretraining sees %d images for %d epochs (published: %d for %d), transfer lasts %d epochs (%d).", p.Images, p.Epochs, d.Pretrain.Images, d.Pretrain.Epochs, s.Transfer.Epochs, d.Transfer.Epochs))
		}
		if s.Training.PretrainSharing == study.ShareSeed {
			r = append(r, "Transfers of one domain, learning rate and initialisation share their pretrained model; in the published study each had its own.")
		}
	case study.Mixture:
		if s.Mixture.Epochs != d.Mixture.Epochs {
			r = append(r, fmt.Sprintf("Training lasts %d epochs (published: %d).", s.Mixture.Epochs, d.Mixture.Epochs))
		}
	}
	if t := s.Training; t.Batch != d.Training.Batch || t.Initialisations != d.Training.Initialisations {
		r = append(r, fmt.Sprintf("Minibatches have %d images (published: %d), and each configuration is trained from %d random initialisation(s) (%d).", t.Batch, d.Training.Batch, t.Initialisations, d.Training.Initialisations))
	}
	return r
}
