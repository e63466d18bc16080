package series

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/backend"
)

// Table is a published table: rows of named values.
type Table struct {
	name    string
	Columns map[string]int
	Rows    [][]string
	err     error
}

// ReadTable reads a published table: "defocus", "noise", "structure" or
// "baseline".
func ReadTable(name string) (*Table, error) {
	f, err := reference.FS.Open(name + ".csv.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("published table %s: %w", name, err)
	}
	all, err := csv.NewReader(z).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("published table %s: %w", name, err)
	}
	if len(all) < 2 {
		return nil, fmt.Errorf("published table %s is empty", name)
	}
	t := &Table{name: name, Columns: map[string]int{}, Rows: all[1:]}
	for i, c := range all[0] {
		t.Columns[c] = i
	}
	return t, nil
}

// text is the value of a column.
func (t *Table) text(row []string, column string) string {
	i, ok := t.Columns[column]
	if !ok && t.err == nil {
		t.err = fmt.Errorf("published table %s has no column %s", t.name, column)
	}
	return row[i]
}

// number is the value of a numeric column. The first problem is kept in t.err.
func (t *Table) number(row []string, column string) float64 {
	v, err := strconv.ParseFloat(t.text(row, column), 64)
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("published table %s: column %s: %w", t.name, column, err)
	}
	return v
}

// What the published study trained on in its first, or only, stage.
const (
	publishedImages = 512
	publishedEpochs = 10
)

// The published series. They are read once, and not changed.
var (
	PublishedDefocus   = sync.OnceValues(func() (*Series, error) { return published(readDefocus()) })
	PublishedBaseline  = sync.OnceValues(readBaseline)
	PublishedStructure = sync.OnceValues(func() (*Series, error) { return published(readStructure()) })
	publishedNoise     = sync.OnceValues(func() (*NoiseSeries, error) { return readNoise(AsPublished) })
	publishedNoiseKept = sync.OnceValues(func() (*NoiseSeries, error) { return readNoise(Kept) })
)

// PublishedNoise is the published noise series: of all tables this one alone has
// the losses of every epoch, so that it is there by both metrics.
func PublishedNoise(m Metric) (*NoiseSeries, error) {
	if m == Kept {
		return publishedNoiseKept()
	}
	return publishedNoise()
}

// PublishedOf is the published series with the same axis, by the metric if the
// table can tell and as published if not; nil where there is none.
func PublishedOf(axis string, m Metric) (*Series, error) {
	switch axis {
	case AxisDefocus:
		return PublishedDefocus()
	case AxisStructure:
		return PublishedStructure()
	case AxisDose:
		n, err := PublishedNoise(m)
		if err != nil {
			return nil, err
		}
		return n.Series, nil
	}
	return nil, nil
}

func publishedDefoci() []string {
	var d []string
	for v := -250; v <= 250; v += 50 {
		d = append(d, strconv.Itoa(v))
	}
	return d
}

func readDefocus() (*Series, error) {
	t, err := ReadTable("defocus")
	if err != nil {
		return nil, err
	}
	s := &Series{Axis: AxisDefocus, Metric: AsPublished, Domains: publishedDefoci(), Images: publishedImages, Epochs: publishedEpochs}
	for _, r := range t.Rows {
		o := Transfer{Config: Config{
			Source: t.text(r, "pretrain_defocus"), Target: t.text(r, "transfer_defocus"),
			PretrainRate: t.number(r, "pretrain_lr"), Rate: t.number(r, "transfer_lr"),
			Images: int(t.number(r, "N_tl_training_points")), Frozen: t.text(r, "freeze_option"),
		}}
		for _, d := range s.Domains {
			o.Before = append(o.Before, t.number(r, "best_pretrain_val_"+d))
			o.After = append(o.After, t.number(r, "best_transfer_performance_"+d))
		}
		s.Transfers = append(s.Transfers, o)
	}
	return s, t.err
}

func readBaseline() (*Series, error) {
	t, err := ReadTable("baseline")
	if err != nil {
		return nil, err
	}
	s := &Series{Axis: AxisDefocus, Metric: AsPublished, Domains: publishedDefoci(), Images: publishedImages, Epochs: publishedEpochs}
	for _, r := range t.Rows {
		n := int(t.number(r, "N_major"))
		s.Singles = append(s.Singles, Single{
			Domains: [2]string{t.text(r, "major"), t.text(r, "minor")},
			Images:  [2]int{n, publishedImages - n},
			Rate:    t.number(r, "lr"),
			Loss:    [2]float64{t.number(r, "baseline_major_perf"), t.number(r, "baseline_minor_perf")},
		})
	}
	return s, t.err
}

// structures are the domains of the published structure series, as its columns
// name them.
func structures(t *Table) []string {
	const column = "best_pretrain_performance_validation_"
	var keys []string
	for c := range t.Columns {
		if k, ok := strings.CutPrefix(c, column); ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// readStructure reads the one table of which neither offset nor rates and images
// are part: losses are raw, and the protocol is the same for all models.
func readStructure() (*Series, error) {
	t, err := ReadTable("structure")
	if err != nil {
		return nil, err
	}
	s := &Series{Axis: AxisStructure, Metric: AsPublished, Domains: structures(t), Images: publishedImages, Epochs: publishedEpochs}
	for _, r := range t.Rows {
		o := Transfer{Config: Config{
			Source: t.text(r, "pretrain_structure"), Target: t.text(r, "transfer_structure"),
			PretrainRate: 1e-4, Rate: 1e-5, Images: 128, Frozen: t.text(r, "freezing_mode"),
		}}
		for _, d := range s.Domains {
			o.Before = append(o.Before, t.number(r, "best_pretrain_performance_validation_"+d)-backend.LeastOnProbabilities)
			o.After = append(o.After, t.number(r, "best_transfer_performance_validation_"+d)-backend.LeastOnProbabilities)
		}
		s.Transfers = append(s.Transfers, o)
	}
	return s, t.err
}

// Path is a model's losses over its epochs, both stages, without the offset.
type Path struct {
	Name string // of what it is grouped by
	// Validation is on the target, Training on the images trained on, which are the
	// source's in the first stage. The first Pretraining values are of that stage.
	Validation, Training []float64
	Pretraining          int
}

// NoiseSeries is the noise series with its models' epochs.
type NoiseSeries struct {
	Series *Series
	Paths  []Path
}

func readNoise(m Metric) (*NoiseSeries, error) {
	t, err := ReadTable("noise")
	if err != nil {
		return nil, err
	}
	s := &Series{Axis: AxisDose, Metric: m, Domains: []string{"30", "75", "150", "300", "600"}, Images: publishedImages, Epochs: publishedEpochs}
	n := &NoiseSeries{Series: s}
	type stage struct {
		model string
		first bool
	}
	at := map[string]int{}
	least := map[stage]float64{} // on the domain trained on
	for _, r := range t.Rows {
		id := t.text(r, "model")
		k, ok := at[id]
		if !ok {
			k, at[id] = len(s.Transfers), len(s.Transfers)
			o := Transfer{Config: Config{
				Source: t.text(r, "pretrain_dose"), Target: t.text(r, "transfer_dose"),
				PretrainRate: 1e-4, Rate: 1e-5, Images: 128, Frozen: t.text(r, "freezing_mode"),
			}}
			for range s.Domains {
				o.Before, o.After = append(o.Before, math.Inf(1)), append(o.After, math.Inf(1))
			}
			s.Transfers = append(s.Transfers, o)
			n.Paths = append(n.Paths, Path{Name: o.Frozen})
		}
		o, p := &s.Transfers[k], &n.Paths[k]
		losses, on := o.After, o.Target
		here := stage{id, t.text(r, "stage") == "pretrain"}
		if here.first {
			losses, on = o.Before, o.Source
			p.Pretraining++
		}
		own := t.number(r, "validation_"+on)
		l, seen := least[here]
		better := !seen || own < l
		if better {
			least[here] = own
		}
		for i, d := range s.Domains {
			v := t.number(r, "validation_"+d) - backend.LeastOnProbabilities // other tables have it subtracted
			if m == AsPublished && v < losses[i] || m == Kept && better {
				losses[i] = v
			}
			if d == o.Target {
				p.Validation = append(p.Validation, v)
			}
		}
		p.Training = append(p.Training, t.number(r, "train")-backend.LeastOnProbabilities)
	}
	_, err = published(s, t.err)
	return n, err
}
