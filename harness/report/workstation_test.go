package report

import (
	"testing"

	"github.com/refocus-em/refocus/harness/report/claims"
)

// Whatever the published tables let one judge, a workstation's run lets, too: only the
// outcome is open.
func TestWorkstationJudgesEveryFinding(t *testing.T) {
	for name, companion := range map[string]string{"defocus": "baseline", "noise": "", "structure": "", "baseline": "defocus"} {
		in := synthetic(t, name, "workstation")
		if companion != "" {
			other := synthetic(t, companion, "workstation")
			in.Companion = &other
		}
		c, err := Compare(in)
		if err != nil {
			t.Fatal(err)
		}
		paper := plan(t, name, "paper").Study
		judged := 0
		for _, f := range c.Findings {
			if f.Published.Outcome == claims.Unjudged || !f.Published.Applies() || !f.Ours.Applies() {
				continue
			}
			// These two are about what only the defocus series varies.
			if f.Number == 1 && len(paper.Transfer.Images) == 1 || f.Number == 3 && len(paper.Transfer.LearningRates) == 1 {
				continue
			}
			judged++
			if f.Ours.Outcome == claims.Unjudged {
				t.Errorf("%s: finding %d cannot be judged: %s", name, f.Number, f.Ours.Why())
			}
			for _, s := range f.Ours.Statements {
				if s.Outcome == claims.Unjudged {
					t.Errorf("%s: finding %d: %s cannot be judged: %s", name, f.Number, s.Text, s.Reason)
				}
			}
		}
		if judged < 1 {
			t.Errorf("%s: no finding was looked at", name)
		}
		t.Logf("%s: %d findings", name, judged)
	}
}
