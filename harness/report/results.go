package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// resultsCSV writes the models in the columns of the published table of the same
// series, so that the authors' notebooks read it: a row per model with its best
// losses above the offset, or for doses a row per epoch with the losses as they
// are. A defocus or dose is written as its number, other domains by key.
func (in *Input) resultsCSV() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	var err error
	switch {
	case in.Plan.Study.Kind == study.Mixture:
		err = in.mixtureRows(w.Write)
	case series.AxisOf(in.Plan.Study) == series.AxisDose:
		err = in.doseRows(w.Write)
	default:
		err = in.transferRows(w.Write)
	}
	if err != nil {
		return nil, err
	}
	w.Flush()
	return b.Bytes(), w.Error()
}

func number(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 8, 64)
}

// transferRows has both losses named best_target on the domain transferred to.
// (In the published table best_target_pretrain_performance is that only in the
// rows of 64 images; in the others it is the loss on the pretraining's domain.)
func (in *Input) transferRows(write func([]string) error) error {
	axis := series.AxisOf(in.Plan.Study)
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
		row := []string{decimal(r.Parent.LearningRate), decimal(r.LearningRate), r.Source.Key, r.Target.Key, strconv.Itoa(r.Images), r.Frozen,
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

func (in *Input) doseRows(write func([]string) error) error {
	var doses []string
	for _, d := range in.Plan.Domains {
		doses = append(doses, d.Key)
	}
	slices.Sort(doses) // as the published columns are: by letters
	head := []string{"model", "freezing_mode", "pretrain_dose", "transfer_dose", "stage", "epoch", "train"}
	for _, d := range doses {
		head = append(head, "validation_"+d)
	}
	if err := write(head); err != nil {
		return err
	}
	for i, m := range in.Models {
		for _, h := range []*store.History{m.Pretrain, m.Final} {
			if h == nil {
				continue
			}
			for e, epoch := range h.Epochs {
				row := []string{strconv.Itoa(i), m.Run.Frozen, m.Run.Source.Key, m.Run.Target.Key, h.Stage, strconv.Itoa(e + 1), number(epoch.TrainLoss)}
				for _, d := range doses {
					v := math.NaN()
					if s, ok := epoch.Validation[d]; ok {
						v = s.Loss
					}
					row = append(row, number(v))
				}
				if err := write(row); err != nil {
					return err
				}
			}
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
		if err := write([]string{strconv.Itoa(n), decimal(r.LearningRate), number(in.best(m.Final, major)), number(in.best(m.Final, minor)), major, minor}); err != nil {
			return err
		}
	}
	return nil
}

// decimal writes a learning rate as pandas does: 0.001, 0.0001, 1e-05.
func decimal(v float64) string {
	if v >= 1e-4 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'e', -1, 64)
}

// modelsCSV lists the models with their place in the store.
func (in *Input) modelsCSV() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.Write([]string{"run", "digest", "target", "best_epoch", "best_loss", "best_dice", "train_seconds"}); err != nil {
		return nil, err
	}
	for _, m := range in.Models {
		target, dice := m.Run.Target.Key, math.NaN()
		if k := m.Final.Best; k >= 1 && k <= len(m.Final.Epochs) {
			dice = m.Final.Epochs[k-1].Validation[target].Dice
		}
		row := []string{m.Run.ID, m.Digest, target, strconv.Itoa(m.Final.Best), number(in.best(m.Final, target)), number(dice), strconv.FormatFloat(m.TrainSeconds, 'f', 1, 64)}
		if err := w.Write(row); err != nil {
			return nil, err
		}
	}
	w.Flush()
	return b.Bytes(), w.Error()
}

// claimsJSON is the file of the findings.
func (in *Input) claimsJSON(f []claims.Finding) ([]byte, error) {
	b, err := json.MarshalIndent(struct {
		Study    string           `json:"study"`
		Profile  string           `json:"profile"`
		Models   int              `json:"models"`
		Findings []claims.Finding `json:"findings"`
	}{in.Plan.Study.Name, in.Plan.Study.Profile, len(in.Models), f}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the findings: %w", err)
	}
	return append(b, '\n'), nil
}
