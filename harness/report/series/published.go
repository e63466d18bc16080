package series

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math"
	"strconv"
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

// ReadTable reads a published table: "defocus", "noise" or "baseline".
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
	PublishedDefocus  = sync.OnceValues(readDefocus)
	PublishedNoise    = sync.OnceValues(readNoise)
	PublishedBaseline = sync.OnceValues(readBaseline)
)

// PublishedOf is the published series with the same axis; nil where there is
// none.
func PublishedOf(axis string) (*Series, error) {
	switch axis {
	case AxisDefocus:
		return PublishedDefocus()
	case AxisDose:
		n, err := PublishedNoise()
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
	s := &Series{Axis: AxisDefocus, Domains: publishedDefoci(), Images: publishedImages, Epochs: publishedEpochs}
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
	s := &Series{Axis: AxisDefocus, Domains: publishedDefoci(), Images: publishedImages, Epochs: publishedEpochs}
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

// Path is the validation loss on the target over a model's epochs, both stages.
type Path struct {
	Name string // of what it is grouped by
	// loss without the offset; the first Pretraining values are of the first
	// stage.
	Loss        []float64
	Pretraining int
}

// NoiseSeries is the noise series with its models' epochs.
type NoiseSeries struct {
	Series *Series
	Paths  []Path
}

func readNoise() (*NoiseSeries, error) {
	t, err := ReadTable("noise")
	if err != nil {
		return nil, err
	}
	s := &Series{Axis: AxisDose, Domains: []string{"30", "75", "150", "300", "600"}, Images: publishedImages, Epochs: publishedEpochs}
	n := &NoiseSeries{Series: s}
	at := map[string]int{}
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
		o := &s.Transfers[k]
		best := o.After
		if t.text(r, "stage") == "pretrain" {
			best = o.Before
			n.Paths[k].Pretraining++
		}
		for i, d := range s.Domains {
			v := t.number(r, "validation_"+d) - backend.LeastOnProbabilities // other tables have it subtracted
			best[i] = min(best[i], v)
			if d == o.Target {
				n.Paths[k].Loss = append(n.Paths[k].Loss, v)
			}
		}
	}
	return n, t.err
}
