package report

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

// From a store to the folder of its report, without a command.
func TestWrite(t *testing.T) {
	const spec = "../testdata/tiny.toml"
	ctx := t.Context()
	nothing := Options{Version: "test", Launch: func(context.Context) (reproduce.Process, error) { return nil, errors.New("nothing to start") }}
	empty := tiny.Resolved(t, spec)
	if _, err := Write(ctx, empty, nothing); err == nil || !strings.Contains(err.Error(), "no finished model of tiny, profile base, backend cpu") {
		t.Errorf("an empty store: %v", err)
	}
	if _, err := os.Stat(empty.ReportDir()); err == nil {
		t.Error("nothing makes a report")
	}
	// A study whose every run failed has a report that says so.
	failed := nothing
	failed.Failures = []reproduce.Failure{{Node: empty.Nodes[0], Err: errors.New("the dog ate it")}}
	sum, err := Write(ctx, empty, failed)
	if err != nil || sum.Best != nil || sum.Model != "" {
		t.Fatalf("%+v, %v", sum, err)
	}
	if page, err := os.ReadFile(sum.Index); err != nil || !strings.Contains(string(page), empty.Nodes[0].Run.ID+": the dog ate it") {
		t.Errorf("the page does not say what failed: %v", err)
	}

	r := tiny.Reproduced(t, spec)
	r.Note("remember the milk")
	o := Options{Version: "test", Launch: tiny.Launch}
	in, err := Gather(ctx, r, o)
	if err != nil {
		t.Fatal(err)
	}
	notes := 0
	for _, f := range in.Environment {
		if f.Text == "remember the milk" {
			notes++
		}
	}
	if len(in.Models) != 4 || in.Companion != nil || in.Particles != nil || notes != 1 {
		t.Errorf("gathered %d models, companion %v, particles %v, the note %d times", len(in.Models), in.Companion, in.Particles, notes)
	}
	// Another study of the name does not replace the report, nor this one its.
	mine := r.ReportDir()
	if _, err := r.ClaimReportDir(); err != nil {
		t.Fatal(err)
	}
	other := *r
	other.Nodes = r.Nodes[1:]
	if dir, err := other.ClaimReportDir(); err != nil || dir == mine || !strings.HasPrefix(dir, mine+"-") {
		t.Errorf("the other study's report goes to %s, %v", dir, err)
	}
	if dir, err := r.ClaimReportDir(); err != nil || dir != mine {
		t.Errorf("the report goes to %s, %v, not to %s", dir, err, mine)
	}

	// Where only the export fails there is a report, and it says so.
	blocked := filepath.Join(r.ReportDir(), "best.onnx")
	if err := os.MkdirAll(filepath.Join(blocked, "something"), 0o755); err != nil {
		t.Fatal(err)
	}
	sum, err = Write(ctx, r, o)
	if err == nil || !strings.Contains(err.Error(), "exporting the best model") || sum == nil || sum.Best != nil {
		t.Fatalf("%+v, %v", sum, err)
	}
	if page, err := os.ReadFile(sum.Index); err != nil || !strings.Contains(string(page), "exporting the best model") || strings.Contains(string(page), `href="best.onnx"`) {
		t.Errorf("the page does not say that the export failed: %v", err)
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	sum, err = Write(ctx, r, o)
	if err != nil || sum.Best == nil || sum.Model != blocked {
		t.Fatalf("%+v, %v", sum, err)
	}
	for _, name := range []string{"index.html", "results.csv", "models.csv", "claims.json", "best.onnx", "predictions.png"} {
		if st, err := os.Stat(filepath.Join(r.ReportDir(), name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A structure series shows the radii of the particles that were simulated.
func TestRadii(t *testing.T) {
	r := tiny.Reproduced(t, "../testdata/tiny.toml")
	radii, err := r.Radii()
	if err != nil || len(radii) != 3 {
		t.Fatalf("%v, %v", radii, err)
	}
	for domain, of := range radii {
		if len(of) < 2 { // a particle in each of two validation images at least
			t.Errorf("%s has %d particles", domain, len(of))
		}
		for _, x := range of {
			if x < 5 || x > 6 { // the spec's bounds
				t.Errorf("%s has a radius of %g Å", domain, x)
			}
		}
	}
}
