package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// loaded is what the loading steps of the authors' notebooks make of a table.
type loaded struct {
	Rows, Shown   int
	Types         map[string]string
	Before, After [][]*float64
}

// notebook runs the loading steps of a series' notebooks on the input's results.
func notebook(t *testing.T, name string, in Input, options map[string]any) loaded {
	t.Helper()
	python := peers.Python(t, "pandas")
	_, frame := in.results()
	b, err := frame.pickle()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "results.pkl")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := json.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/notebooks.py", name, path, string(o))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.String())
	}
	var l loaded
	if err := json.Unmarshal(out, &l); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return l
}

// same compares a notebook's medians with ours. Both are of the same numbers; the
// notebooks subtract a rounded offset where the table has it.
func same(t *testing.T, what string, got [][]*float64, want *stats.Matrix, less float64) {
	t.Helper()
	for i := range want.Rows {
		for j := range want.Columns {
			v, w := got[i][j], want.Values[i][j]
			if v == nil || math.IsNaN(w) {
				continue // the notebooks fill cells without a transfer
			}
			if math.Abs(*v-less-w) > 1e-9 {
				t.Errorf("%s, %s to %s: the notebook has %g, ours is %g", what, want.Rows[i], want.Columns[j], *v-less, w)
			}
		}
	}
}

// TestNotebooks runs the loading steps of the authors' notebooks on our tables of
// the published results taken as ours, with their own selections: every row is
// shown, columns have the types of the authors' pickles, and the medians are ours.
func TestNotebooks(t *testing.T) {
	peers.Python(t, "pandas")
	const float, integer, text = "float64", "int64", "object"
	for _, c := range []struct {
		name    string
		types   map[string]string // of the columns that are no losses
		losses  []string          // formats of the others' names
		options map[string]any
		less    float64 // offset left in the notebook's medians
	}{
		{"defocus", map[string]string{"pretrain_lr": float, "transfer_lr": float, "pretrain_defocus": integer, "transfer_defocus": integer,
			"N_tl_training_points": integer, "freeze_option": text, "best_target_pretrain_performance": float, "best_target_transfer_performance": float},
			[]string{"best_pretrain_val_%s", "best_transfer_performance_%s"},
			map[string]any{"images": []int{64, 128, 256, 512}, "pretrain_lr": []string{"1e-3", "1e-4"}, "transfer_lr": []string{"1e-4", "1e-5"}}, 0},
		{"noise", map[string]string{"N_epochs": integer, "batch_size": integer, "freezing_mode": text, "pretrain_dose": integer, "pretrain_history": text,
			"pretrain_lr": float, "schedule_rate": float, "transfer_dose": integer, "transfer_history": text, "transfer_lr": float}, nil, map[string]any{}, backend.LeastOnProbabilities},
		{"structure", map[string]string{"freezing_mode": text, "pretrain_structure": text, "transfer_structure": text, "Pretrain Size": text, "Transfer Size": text},
			[]string{"best_pretrain_performance_validation_%s", "best_transfer_performance_validation_%s"}, map[string]any{}, backend.LeastOnProbabilities - 0.3133},
	} {
		in := publishedInput(t, c.name)
		s := in.Series(series.AsPublished)
		before, after := s.Medians()
		c.options["rows"], c.options["columns"] = before.Rows, before.Columns
		got := notebook(t, c.name, in, c.options)
		if got.Rows != len(in.Models) || got.Shown != got.Rows {
			t.Errorf("%s: %d rows of %d models, of which the notebook shows %d", c.name, got.Rows, len(in.Models), got.Shown)
		}
		for _, f := range c.losses {
			for _, d := range s.Domains {
				c.types[fmt.Sprintf(f, d)] = float
			}
		}
		if fmt.Sprint(got.Types) != fmt.Sprint(c.types) { // maps are printed by sorted key
			t.Errorf("%s: columns and types\n%v, want\n%v", c.name, got.Types, c.types)
		}
		same(t, c.name+" before", got.Before, before, c.less)
		same(t, c.name+" after", got.After, after, c.less)
	}
}

// TestNotebooksOfQuick shows the rows of the miniature by the selections that its
// report names, and the noise series with several epochs.
func TestNotebooksOfQuick(t *testing.T) {
	peers.Python(t, "pandas")
	in := synthetic(t, "defocus", "quick")
	s := in.Plan.Study
	before, after := in.Series(series.AsPublished).Medians()
	got := notebook(t, "defocus", in, map[string]any{
		"images": s.Transfer.Images, "pretrain_lr": s.Pretrain.LearningRates, "transfer_lr": s.Transfer.LearningRates,
		"rows": before.Rows, "columns": before.Columns,
	})
	if got.Shown != len(in.Models) {
		t.Errorf("%d rows of %d are shown", got.Shown, len(in.Models))
	}
	same(t, "before", got.Before, before, 0)
	same(t, "after", got.After, after, 0)
	if said := strings.Join(in.notebook(), " "); !strings.Contains(said, "mini_df.pkl") || !strings.Contains(said, strconv.Itoa(s.Transfer.Images[0])) {
		t.Errorf("the report says of the notebooks: %s", said)
	}

	in = synthetic(t, "baseline", "quick")
	m := in.Plan.Study.Mixture
	var major []int
	for _, n := range m.Images {
		major = append(major, n[0])
	}
	got = notebook(t, "baseline", in, map[string]any{"lr": m.LearningRates[0], "major": -100, "minor": 50, "images": major})
	if want := len(m.Images) * in.Plan.Study.Training.Initialisations; got.Rows != len(in.Models) || got.Shown != want {
		t.Errorf("baseline: %d rows, %d of a pair, want %d", got.Rows, got.Shown, want)
	}
	if want := map[string]string{"N_major": "int64", "lr": "float64", "baseline_major_perf": "float64", "baseline_minor_perf": "float64", "major": "int64", "minor": "int64"}; fmt.Sprint(got.Types) != fmt.Sprint(want) {
		t.Errorf("baseline: columns and types %v, want %v", got.Types, want)
	}

	// The notebook takes losses of both stages at the pretraining's best epoch.
	in = synthetic(t, "noise", "paper")
	s2 := in.Series(series.Kept)
	before, _ = s2.Medians()
	got = notebook(t, "noise", in, map[string]any{"rows": before.Rows, "columns": before.Columns})
	if got.Shown != 180 {
		t.Errorf("noise: %d rows", got.Shown)
	}
	for i := range in.Models { // the series' epochs are chosen on the source, as the notebook does
		h := in.Models[i].Pretrain
		own := raw(h, in.Models[i].Run.Source.Key)
		h.Best = slices.Index(own, slices.Min(own)) + 1
	}
	before, _ = in.Series(series.Kept).Medians()
	same(t, "noise before", got.Before, before, backend.LeastOnProbabilities)
}
