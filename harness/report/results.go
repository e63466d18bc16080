package report

import (
	"bytes"
	"encoding/csv"
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/study"
)

// resultsCSV writes one row per model in the columns of the published table of
// the same series, so that the authors' notebooks read it. A defocus or dose is
// written as its number, other domains by key.
func (in *Input) resultsCSV() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	var err error
	if in.Plan.Study.Kind == study.Mixture {
		err = in.mixtureRows(w.Write)
	} else {
		err = in.transferRows(w.Write)
	}
	if err != nil {
		return nil, err
	}
	w.Flush()
	return b.Bytes(), w.Error()
}

// axis names what varies between the domains, as the published columns do.
func (in *Input) axis() string {
	g := in.Plan.Study.Grid
	switch {
	case len(in.Plan.Study.Own) > 0:
		return "domain"
	case len(g.Defocus) > 1 && len(g.Dose) <= 1 && len(g.Crystals) <= 1 && len(g.Sizes) <= 1:
		return "defocus"
	case len(g.Dose) > 1 && len(g.Defocus) <= 1 && len(g.Crystals) <= 1 && len(g.Sizes) <= 1:
		return "dose"
	case len(g.Crystals) > 1 || len(g.Sizes) > 1:
		return "structure"
	}
	return "domain"
}

func number(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 8, 64)
}

func (in *Input) transferRows(write func([]string) error) error {
	axis := in.axis()
	head := []string{"pretrain_lr", "transfer_lr", "pretrain_" + axis, "transfer_" + axis, "N_tl_training_points", "freeze_option",
		"best_target_pretrain_performance", "best_target_transfer_performance"}
	for _, d := range in.Plan.Domains {
		head = append(head, "best_pretrain_val_"+d.Key)
	}
	for _, d := range in.Plan.Domains {
		head = append(head, "best_transfer_performance_"+d.Key)
	}
	if err := write(head); err != nil {
		return err
	}
	for _, m := range in.Models {
		r := m.Run
		row := []string{rate(r.Parent.LearningRate), rate(r.LearningRate), r.Source.Key, r.Target.Key, strconv.Itoa(r.Images), r.Frozen,
			number(in.best(m.Pretrain, r.Target.Key)), number(in.best(m.Final, r.Target.Key))}
		for _, d := range in.Plan.Domains {
			row = append(row, number(in.best(m.Pretrain, d.Key)))
		}
		for _, d := range in.Plan.Domains {
			row = append(row, number(in.best(m.Final, d.Key)))
		}
		if err := write(row); err != nil {
			return err
		}
	}
	return nil
}

func (in *Input) mixtureRows(write func([]string) error) error {
	if err := write([]string{"N_major", "lr", "baseline_major_perf", "baseline_minor_perf", "major", "minor"}); err != nil {
		return err
	}
	for _, m := range in.Models {
		r := m.Run
		major, minor := r.Target.Key, r.Source.Key
		n := 0
		for _, p := range r.Mixture {
			if p.Domain.Key == major {
				n = p.Images
			}
		}
		if err := write([]string{strconv.Itoa(n), rate(r.LearningRate), number(in.best(m.Final, major)), number(in.best(m.Final, minor)), major, minor}); err != nil {
			return err
		}
	}
	return nil
}

// rate writes a learning rate as pandas does: 0.001, 0.0001, 1e-05.
func rate(v float64) string {
	if v >= 1e-4 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'e', -1, 64)
}
