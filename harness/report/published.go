package report

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math"
	"strconv"
	"sync"

	"github.com/refocus-em/refocus/artifacts/reference"
)

// Offset is the least value of the study's loss for two classes, ln(1+e⁻¹): the
// cross entropy applied to probabilities as if they were logits. The published
// tables, other than the noise series', have it subtracted.
const Offset = 0.31326168751822286

// table is a published table: rows of named values.
type table struct {
	name    string
	columns map[string]int
	rows    [][]string
	err     error
}

func readTable(name string) (*table, error) {
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
	t := &table{name: name, columns: map[string]int{}, rows: all[1:]}
	for i, c := range all[0] {
		t.columns[c] = i
	}
	return t, nil
}

// text is the value of a column.
func (t *table) text(row []string, column string) string {
	i, ok := t.columns[column]
	if !ok && t.err == nil {
		t.err = fmt.Errorf("published table %s has no column %s", t.name, column)
	}
	return row[i]
}

// number is the value of a numeric column. The first problem is kept in t.err.
func (t *table) number(row []string, column string) float64 {
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
	publishedDefocus  = sync.OnceValues(readDefocus)
	publishedNoise    = sync.OnceValues(readNoise)
	publishedBaseline = sync.OnceValues(readBaseline)
)

// publishedLike is the published series with the same axis; nil where there is
// none.
func publishedLike(axis string) (*series, error) {
	switch axis {
	case axisDefocus:
		return publishedDefocus()
	case axisDose:
		n, err := publishedNoise()
		if err != nil {
			return nil, err
		}
		return n.series, nil
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

func readDefocus() (*series, error) {
	t, err := readTable("defocus")
	if err != nil {
		return nil, err
	}
	s := &series{axis: axisDefocus, domains: publishedDefoci(), images: publishedImages, epochs: publishedEpochs}
	for _, r := range t.rows {
		o := outcome{config: config{
			source: t.text(r, "pretrain_defocus"), target: t.text(r, "transfer_defocus"),
			pretrainRate: t.number(r, "pretrain_lr"), rate: t.number(r, "transfer_lr"),
			images: int(t.number(r, "N_tl_training_points")), frozen: t.text(r, "freeze_option"),
		}}
		for _, d := range s.domains {
			o.before = append(o.before, t.number(r, "best_pretrain_val_"+d))
			o.after = append(o.after, t.number(r, "best_transfer_performance_"+d))
		}
		s.models = append(s.models, o)
	}
	return s, t.err
}

func readBaseline() (*series, error) {
	t, err := readTable("baseline")
	if err != nil {
		return nil, err
	}
	s := &series{axis: axisDefocus, domains: publishedDefoci(), images: publishedImages, epochs: publishedEpochs}
	for _, r := range t.rows {
		n := int(t.number(r, "N_major"))
		s.singles = append(s.singles, single{
			domains: [2]string{t.text(r, "major"), t.text(r, "minor")},
			images:  [2]int{n, publishedImages - n},
			rate:    t.number(r, "lr"),
			loss:    [2]float64{t.number(r, "baseline_major_perf"), t.number(r, "baseline_minor_perf")},
		})
	}
	return s, t.err
}

// path is the validation loss on the target over a model's epochs, both stages.
type path struct {
	name string // of what it is grouped by
	// loss without the offset; the first "pretraining" values are of the first
	// stage.
	loss        []float64
	pretraining int
}

// noise is the noise series with its models' epochs.
type noise struct {
	series *series
	paths  []path
}

func readNoise() (*noise, error) {
	t, err := readTable("noise")
	if err != nil {
		return nil, err
	}
	s := &series{axis: axisDose, domains: []string{"30", "75", "150", "300", "600"}, images: publishedImages, epochs: publishedEpochs}
	n := &noise{series: s}
	at := map[string]int{}
	for _, r := range t.rows {
		id := t.text(r, "model")
		k, ok := at[id]
		if !ok {
			k, at[id] = len(s.models), len(s.models)
			o := outcome{config: config{
				source: t.text(r, "pretrain_dose"), target: t.text(r, "transfer_dose"),
				pretrainRate: 1e-4, rate: 1e-5, images: 128, frozen: t.text(r, "freezing_mode"),
			}}
			for range s.domains {
				o.before, o.after = append(o.before, math.Inf(1)), append(o.after, math.Inf(1))
			}
			s.models = append(s.models, o)
			n.paths = append(n.paths, path{name: o.frozen})
		}
		o := &s.models[k]
		best := o.after
		if t.text(r, "stage") == "pretrain" {
			best = o.before
			n.paths[k].pretraining++
		}
		for i, d := range s.domains {
			v := t.number(r, "validation_"+d) - Offset
			best[i] = min(best[i], v)
			if d == o.target {
				n.paths[k].loss = append(n.paths[k].loss, v)
			}
		}
	}
	return n, t.err
}
