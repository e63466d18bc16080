package report

import (
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/store"
)

// TestMetrics makes transfer good by one metric and bad by the other: before it,
// every domain but the source has its least loss in an epoch that is not kept.
// The tables of the published columns have the one, what is said about models the
// other.
func TestMetrics(t *testing.T) {
	in := synthetic(t, "defocus", "quick")
	for i := range in.Models {
		m := &in.Models[i]
		epoch := func(own, others float64) store.Epoch {
			e := store.Epoch{TrainLoss: 0.4, Validation: map[string]store.Score{}}
			for k := range in.Plan.Domains {
				d, v := in.Plan.Domains[k].Key, others
				if d == m.Run.Source.Key {
					v = own
				}
				e.Validation[d] = store.Score{Loss: backend.LeastOnProbabilities + v*(1+0.001*float64(i%7))}
			}
			return e
		}
		m.Pretrain = &store.History{Stage: "pretrain", Target: m.Run.Source.Key, Best: 2, Epochs: []store.Epoch{epoch(0.2, 0.1), epoch(0.05, 0.4)}}
		m.Final = &store.History{Stage: "transfer", Target: m.Run.Target.Key, Best: 1, Epochs: []store.Epoch{epoch(0.2, 0.2)}}
	}
	kept, least := in.Series(series.Kept), in.Series(series.AsPublished)
	o, p := &kept.Transfers[0], &least.Transfers[0]
	if b, l := kept.Initial(o), least.Initial(p); math.Abs(b-0.4) > 1e-12 || math.Abs(l-0.1) > 1e-12 {
		t.Errorf("before transfer %g by the kept weights and %g at least, want 0.4 and 0.1", b, l)
	}
	if kept.Final(o) != least.Final(p) {
		t.Error("after transfer the metrics differ on the target")
	}
	c, err := Compare(in)
	if err != nil {
		t.Fatal(err)
	}
	if g := c.Gain; g.Metric != series.Kept || *g.Models.Value != 1 || *g.Cells.Value != 1 || g.Transfers != 1200 || g.Pretrained != 30 {
		t.Errorf("the gain is %+v", g)
	}
	f := c.Findings[12]
	if f.Ours.Outcome != "holds" || f.OursAsPublished.Outcome != "does not hold" {
		t.Errorf("finding 13 %s by the kept weights and %s by the published metric", f.Ours.Outcome, f.OursAsPublished.Outcome)
	}
	text, _ := in.results()
	results, err := text.csv()
	if err != nil {
		t.Fatal(err)
	}
	models, err := in.modelsCSV()
	if err != nil {
		t.Fatal(err)
	}
	row := func(b []byte) string { return strings.Split(string(b), "\n")[1] }
	if r, m := row(results), row(models); !strings.Contains(r, ",0.1,") || strings.Contains(r, ",0.4,") || !strings.Contains(m, ",0.4,") || strings.Contains(m, ",0.1,") {
		t.Errorf("the first model's results.csv is\n%s\nand its models.csv\n%s", r, m)
	}
	if l := strings.Join(c.lines(), "\n"); !strings.Contains(l, "100 %") || !strings.Contains(l, "1200 models from 30 pretrainings") || !strings.Contains(l, "99.9 %") {
		t.Errorf("the summary is\n%s", l)
	}
}
