package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/pickle"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// rate is a learning rate, which CSV has as pandas writes it.
type rate float64

// table is named columns, each a slice with a value per row.
type table pickle.Dict

// results are the models in the columns and types of the published table of the
// same series, so that the authors' notebooks read them: text as it stands in
// results.csv, and the frame of results.pkl. In both, losses are those that the
// published table has. For defocus and other axes without one of their own, and
// for single-stage training, they are the least over the epochs, less the offset;
// for structures the same with the offset left in; for doses the histories, with
// the offset left in, which results.csv has a row per epoch of.
func (in *Input) results() (text, frame table) {
	switch axis := series.AxisOf(in.Plan.Study); {
	case in.Plan.Study.Kind == study.Mixture:
		t := in.mixtureTable()
		return t, t
	case axis == series.AxisDose:
		return in.doseEpochs(), in.doseTable()
	case axis == series.AxisStructure:
		t := in.structureTable()
		return t, t
	default:
		t := in.transferTable(axis)
		return t, t
	}
}

// column has a value of every model.
func column[T any](in *Input, name string, of func(m *trained.Result) T) pickle.Entry {
	v := make([]T, len(in.Models))
	for i := range in.Models {
		v[i] = of(&in.Models[i])
	}
	return pickle.Entry{Name: name, Value: v}
}

// domain is a column of domains: numbers where the keys of all are.
func (in *Input) domain(name string, of func(m *trained.Result) string) pickle.Entry {
	for i := range in.Plan.Domains {
		if _, err := strconv.Atoi(in.Plan.Domains[i].Key); err != nil {
			return column(in, name, of)
		}
	}
	return column(in, name, func(m *trained.Result) int {
		v, _ := strconv.Atoi(of(m)) // all keys are numbers
		return v
	})
}

func sourceOf(m *trained.Result) string { return m.Run.Source.Key }
func targetOf(m *trained.Result) string { return m.Run.Target.Key }
func frozenOf(m *trained.Result) string { return m.Run.Frozen }

// transferTable has both losses named best_target on the domain transferred to.
// (In the published table best_target_pretrain_performance is that only in the
// rows of 64 images; in the others it is the loss on the pretraining's domain.)
func (in *Input) transferTable(axis string) table {
	t := table{
		column(in, "pretrain_lr", func(m *trained.Result) rate { return rate(m.Run.Parent.LearningRate) }),
		column(in, "transfer_lr", func(m *trained.Result) rate { return rate(m.Run.LearningRate) }),
		in.domain("pretrain_"+axis, sourceOf),
		in.domain("transfer_"+axis, targetOf),
		column(in, "N_tl_training_points", func(m *trained.Result) int { return m.Run.Images }),
		column(in, "freeze_option", frozenOf),
		column(in, "best_target_pretrain_performance", func(m *trained.Result) float64 { return in.at(m.Pretrain, targetOf(m), series.AsPublished) }),
		column(in, "best_target_transfer_performance", func(m *trained.Result) float64 { return in.at(m.Final, targetOf(m), series.AsPublished) }),
	}
	for i := range in.Plan.Domains {
		d := in.Plan.Domains[i].Key
		t = append(t, column(in, "best_pretrain_val_"+d, func(m *trained.Result) float64 { return in.at(m.Pretrain, d, series.AsPublished) }))
	}
	for i := range in.Plan.Domains {
		d := in.Plan.Domains[i].Key
		t = append(t, column(in, "best_transfer_performance_"+d, func(m *trained.Result) float64 { return in.at(m.Final, d, series.AsPublished) }))
	}
	return t
}

// keys are the domains in the order of the published columns: by letters.
func (in *Input) keys() []string {
	var k []string
	for i := range in.Plan.Domains {
		k = append(k, in.Plan.Domains[i].Key)
	}
	slices.Sort(k)
	return k
}

func (in *Input) structureTable() table {
	size := func(of func(m *trained.Result) string) func(m *trained.Result) string {
		return func(m *trained.Result) string {
			s := series.SizeOf(of(m))
			return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):]
		}
	}
	least := func(h *store.History, d string) float64 { return in.at(h, d, series.AsPublished) + in.offset() }
	t := table{
		column(in, "freezing_mode", frozenOf),
		column(in, "pretrain_structure", sourceOf),
		column(in, "transfer_structure", targetOf),
	}
	for _, d := range in.keys() {
		t = append(t, column(in, "best_pretrain_performance_validation_"+d, func(m *trained.Result) float64 { return least(m.Pretrain, d) }))
	}
	for _, d := range in.keys() {
		t = append(t, column(in, "best_transfer_performance_validation_"+d, func(m *trained.Result) float64 { return least(m.Final, d) }))
	}
	return append(t, column(in, "Pretrain Size", size(sourceOf)), column(in, "Transfer Size", size(targetOf)))
}

// raw is a domain's validation loss over a stage's epochs, with the offset.
func raw(h *store.History, domain string) []float64 {
	v := []float64{}
	if h == nil {
		return v
	}
	for _, e := range h.Epochs {
		if s, ok := e.Validation[domain]; ok {
			v = append(v, s.Loss)
		} else {
			v = append(v, math.NaN())
		}
	}
	return v
}

func training(h *store.History) []float64 {
	v := []float64{}
	if h != nil {
		for _, e := range h.Epochs {
			v = append(v, e.TrainLoss)
		}
	}
	return v
}

// doseTable has a row per model with its histories.
func (in *Input) doseTable() table {
	history := func(h *store.History) pickle.Dict {
		d := pickle.Dict{{Name: "train", Value: training(h)}}
		for _, k := range in.keys() {
			d = append(d, pickle.Entry{Name: "validation_" + k, Value: raw(h, k)})
		}
		return d
	}
	t := in.Plan.Study.Training
	return table{
		column(in, "N_epochs", func(m *trained.Result) int { return m.Run.Epochs }),
		column(in, "batch_size", func(*trained.Result) int { return t.Batch }),
		column(in, "freezing_mode", frozenOf),
		in.domain("pretrain_dose", sourceOf),
		column(in, "pretrain_history", func(m *trained.Result) pickle.Dict { return history(m.Pretrain) }),
		column(in, "pretrain_lr", func(m *trained.Result) rate { return rate(m.Run.Parent.LearningRate) }),
		column(in, "schedule_rate", func(*trained.Result) float64 { return t.LearningRateDecay }),
		in.domain("transfer_dose", targetOf),
		column(in, "transfer_history", func(m *trained.Result) pickle.Dict { return history(m.Final) }),
		column(in, "transfer_lr", func(m *trained.Result) rate { return rate(m.Run.LearningRate) }),
	}
}

// doseEpochs has a row per epoch.
func (in *Input) doseEpochs() table {
	var model, epoch []int
	var frozen, from, to, stage []string
	var train []float64
	validation := make([][]float64, len(in.Plan.Domains))
	for i := range in.Models {
		m := &in.Models[i]
		for _, h := range []*store.History{m.Pretrain, m.Final} {
			if h == nil {
				continue
			}
			for e := range h.Epochs {
				model, epoch = append(model, i), append(epoch, e+1)
				frozen, from, to, stage = append(frozen, frozenOf(m)), append(from, sourceOf(m)), append(to, targetOf(m)), append(stage, h.Stage)
			}
			train = append(train, training(h)...)
			for k, d := range in.keys() {
				validation[k] = append(validation[k], raw(h, d)...)
			}
		}
	}
	t := table{{Name: "model", Value: model}, {Name: "freezing_mode", Value: frozen}, {Name: "pretrain_dose", Value: from},
		{Name: "transfer_dose", Value: to}, {Name: "stage", Value: stage}, {Name: "epoch", Value: epoch}, {Name: "train", Value: train}}
	for k, d := range in.keys() {
		t = append(t, pickle.Entry{Name: "validation_" + d, Value: validation[k]})
	}
	return t
}

func (in *Input) mixtureTable() table {
	return table{
		column(in, "N_major", func(m *trained.Result) int {
			n := 0
			for _, p := range m.Run.Mixture {
				if p.Domain.Key == targetOf(m) {
					n = p.Images
				}
			}
			return n
		}),
		column(in, "lr", func(m *trained.Result) rate { return rate(m.Run.LearningRate) }),
		column(in, "baseline_major_perf", func(m *trained.Result) float64 { return in.at(m.Final, targetOf(m), series.AsPublished) }),
		column(in, "baseline_minor_perf", func(m *trained.Result) float64 { return in.at(m.Final, sourceOf(m), series.AsPublished) }),
		in.domain("major", targetOf),
		in.domain("minor", sourceOf),
	}
}

// notebook says how the authors' notebooks open the results; nothing for a study
// that they have no table of.
func (in *Input) notebook() []string {
	s := in.Plan.Study
	axis := series.AxisOf(s)
	name, about := "", ""
	switch {
	case axis == series.AxisDefocus && s.Kind == study.Mixture:
		name, about = "mini_baseline_df.pkl", "Losses are the least over the epochs, with the offset of 0.3133 subtracted, as in the published table."
	case axis == series.AxisDefocus:
		name, about = "mini_df.pkl", "Losses are the least over the epochs of each stage, with the offset of 0.3133 subtracted, as in the published table."
	case axis == series.AxisDose:
		name, about = "tl_noise_models.pkl", "Histories are as measured, with the offset of 0.3133 left in, as in the published table; the notebook takes them at the pretraining's best epoch, after transfer too, and so needs as many epochs of transfer."
	case axis == series.AxisStructure:
		name, about = "mini_size_df.pkl", "Losses are the least over the epochs of each stage, with the offset of 0.3133 left in, as in the published table; the notebook subtracts it."
	default:
		return nil
	}
	p := []string{fmt.Sprintf("In results.pkl is a table of the same columns and types as the authors' %s: put it in its place beside their notebooks. %s", name, about)}
	if axis == series.AxisDefocus && s.Kind == study.Transfer {
		levels := func(v []float64) string {
			var t []string
			for _, x := range v {
				if p := format.Plain(x); !slices.Contains(t, p) { // zipped lists may have a value twice
					t = append(t, p)
				}
			}
			return strings.Join(t, ", ")
		}
		var images []float64
		for _, n := range s.Transfer.Images {
			images = append(images, float64(n))
		}
		p = append(p, fmt.Sprintf("The notebooks select by number of transfer images, by learning rates and by frozen part, and list the published values. This study has %s images and the rates %s, then %s: give the selections these options.", levels(images), levels(s.Pretrain.LearningRates), levels(s.Transfer.LearningRates)))
	}
	return p
}

// csv writes the table.
func (t table) csv() ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	head, rows := make([]string, len(t)), [][]string{}
	for k, c := range t {
		head[k] = c.Name
		cells := written(c.Value)
		if k == 0 {
			rows = make([][]string, len(cells))
		}
		for i, v := range cells {
			rows[i] = append(rows[i], v)
		}
	}
	if err := w.Write(head); err != nil {
		return nil, err
	}
	if err := w.WriteAll(rows); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// written are the cells of a column as CSV has them.
func written(column any) []string {
	var s []string
	switch v := column.(type) {
	case []string:
		return v
	case []int:
		for _, x := range v {
			s = append(s, strconv.Itoa(x))
		}
	case []float64:
		for _, x := range v {
			s = append(s, number(x))
		}
	case []rate:
		for _, x := range v {
			s = append(s, decimal(float64(x)))
		}
	}
	return s
}

// pickle writes the table as a DataFrame.
func (t table) pickle() ([]byte, error) {
	var d pickle.Dict
	for _, c := range t {
		if v, ok := c.Value.([]rate); ok {
			f := make([]float64, len(v))
			for i, x := range v {
				f[i] = float64(x)
			}
			c.Value = f
		}
		d = append(d, c)
	}
	return pickle.DataFrame(d)
}

func number(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 8, 64)
}

// decimal writes a learning rate as pandas does: 0.001, 0.0001, 1e-05.
func decimal(v float64) string {
	if v >= 1e-4 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'e', -1, 64)
}

// mediansCSV lists the medians of the maps before and after transfer with their
// intervals, ours by both metrics and the published ones.
func (in *Input) mediansCSV() ([]byte, error) {
	var who, metric, stage, from, on []string
	var median, low, high []float64
	var models, pretrained []int
	add := func(name string, s *series.Series) {
		if s == nil || len(s.Transfers) == 0 {
			return
		}
		before, after := s.MediansWithIntervals()
		for k, m := range []*stats.Matrix{before, after} {
			for i, r := range m.Rows {
				for j, c := range m.Columns {
					if math.IsNaN(m.Values[i][j]) {
						continue
					}
					interval := [2]float64{math.NaN(), math.NaN()}
					if x := m.Intervals[i][j]; x != nil {
						interval = *x
					}
					who, metric, stage = append(who, name), append(metric, string(s.Metric)), append(stage, []string{"before", "after"}[k])
					from, on = append(from, r), append(on, c)
					median, low, high = append(median, m.Values[i][j]), append(low, interval[0]), append(high, interval[1])
					models, pretrained = append(models, m.Counts[i][j]), append(pretrained, m.Pretrained[i][j])
				}
			}
		}
	}
	s := in.Series(series.AsPublished)
	add("ours", s)
	add("ours", in.Series(series.Kept))
	published, err := series.PublishedOf(s.Axis, series.AsPublished)
	if err != nil {
		return nil, err
	}
	add("published", published)
	return table{
		{Name: "results", Value: who}, {Name: "metric", Value: metric}, {Name: "transfer", Value: stage},
		{Name: "pretrained_on", Value: from}, {Name: "domain", Value: on}, {Name: "median_loss", Value: median},
		{Name: "low_95", Value: low}, {Name: "high_95", Value: high}, {Name: "models", Value: models}, {Name: "pretrained_models", Value: pretrained},
	}.csv()
}

// modelsCSV lists the models with their place in the store, and the losses of the
// weights that they keep, less the offset: before transfer, where there is one,
// and at the end, on every domain.
func (in *Input) modelsCSV() ([]byte, error) {
	t := table{
		column(in, "run", func(m *trained.Result) string { return m.Run.ID }),
		column(in, "digest", func(m *trained.Result) string { return m.Digest }),
		column(in, "target", targetOf),
		column(in, "best_epoch", func(m *trained.Result) int { return m.Final.Best }),
		column(in, "best_loss", func(m *trained.Result) float64 { return in.at(m.Final, targetOf(m), series.Kept) }),
		column(in, "best_dice", func(m *trained.Result) float64 {
			if k := m.Final.Best; k >= 1 && k <= len(m.Final.Epochs) {
				return m.Final.Epochs[k-1].Validation[targetOf(m)].Dice
			}
			return math.NaN()
		}),
		column(in, "train_seconds", func(m *trained.Result) string { return strconv.FormatFloat(m.TrainSeconds, 'f', 1, 64) }),
	}
	for i := range in.Plan.Domains {
		d := in.Plan.Domains[i].Key
		if in.Plan.Study.Kind != study.Mixture {
			t = append(t, column(in, "kept_before_"+d, func(m *trained.Result) float64 { return in.at(m.Pretrain, d, series.Kept) }))
		}
		t = append(t, column(in, "kept_"+d, func(m *trained.Result) float64 { return in.at(m.Final, d, series.Kept) }))
	}
	return t.csv()
}

// claimsJSON is the file of the findings.
func (in *Input) claimsJSON(f []claims.Finding) ([]byte, error) {
	b, err := json.MarshalIndent(struct {
		Study    string           `json:"study"`
		Profile  string           `json:"profile"`
		Models   int              `json:"models"`
		Level    string           `json:"level"`
		Findings []claims.Finding `json:"findings"`
	}{in.Plan.Study.Name, in.Plan.Study.Profile, len(in.Models), claims.Level(in.redraws()), f}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the findings: %w", err)
	}
	return append(b, '\n'), nil
}
