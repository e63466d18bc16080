package crosscheck

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// A row says how near to its limits a backend came, and one that failed makes the
// scoreboard fail.
func TestScoreboard(t *testing.T) {
	certificate := func(share float64) *Certificate {
		r := &run{cert: &Certificate{Machine: "a machine", Network: "unet2", Options: Options{Precision: backend.TF32}}}
		r.cert.A = Identity{Description: backend.Description{Name: "one", Version: "1", Devices: []backend.Device{{Name: "cpu", Info: "2 threads"}}}, StepSeconds: 0.03}
		r.cert.B = Identity{Description: backend.Description{Name: "two"}, StepSeconds: 0.01}
		r.add(Check{Stage: Forward, Place: "conv", Judged: ByBound, Bound: share / 2, Local: 1, Limit: 10})
		r.add(Check{Stage: Loss, Place: "loss", Judged: ByBound, Bound: share, Local: 1, Limit: 10})
		r.verdict()
		return r.cert
	}
	var s Scoreboard
	if s.OK() {
		t.Error("an empty scoreboard is taken for a good one")
	}
	s.Add(certificate(0.8), certificate(0.25), 20, 0, 2)
	if !s.OK() {
		t.Errorf("not OK: %+v", s.Rows)
	}
	dir := t.TempDir()
	if err := s.Write(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "scoreboard.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| one 1 | `tf32` | cpu: 2 threads | 20 passed, 0 failed, 2 not offered |",
		"| agrees: 2 comparisons, at most 0.8 of a limit (loss) |",
		"| agrees: 2 comparisons, at most 0.25 of the margin (loss) | 30.0 ms, 3 × two's |",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "scoreboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Scoreboard
	if err := json.Unmarshal(b, &back); err != nil || len(back.Rows) != 1 || back.Rows[0].Steps.Share != 0.8 {
		t.Errorf("read back: %v, %+v", err, back)
	}
	for name, bad := range map[string]func(*Scoreboard){
		"the suite":      func(s *Scoreboard) { s.Add(certificate(0.8), certificate(0.2), 20, 1, 2) },
		"the steps":      func(s *Scoreboard) { s.Add(certificate(1.1), certificate(0.2), 20, 0, 2) },
		"whole training": func(s *Scoreboard) { s.Add(certificate(0.8), certificate(3), 20, 0, 2) },
	} {
		worse := Scoreboard{Rows: s.Rows[:1:1]}
		if bad(&worse); worse.OK() || !strings.Contains(worse.Markdown(), "**") {
			t.Errorf("%s failed, and the scoreboard does not say so:\n%s", name, worse.Markdown())
		}
	}
}

// A certificate answers what it was made for, and nothing else.
func TestAnswers(t *testing.T) {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(3, 0)
	in := Input{
		A: Subject{cpu.New("1"), "aa"}, B: Subject{cpu.New("1"), ""}, Oracle: Subject{cpu.New("1"), ""},
		Graph: g, Train: images(t, "train", 4, 16), Validation: images(t, "validation", 2, 16),
		Loss: backend.LossOnProbabilities, Options: Options{Steps: 8, Threads: 1, Precision: backend.Mixed},
	}
	trials := Trials{Seeds: 4, Epochs: 2}
	c, err := Converge(t.Context(), in, trials, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	read, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !read.Answers(t.Context(), in, &trials) {
		t.Error("it does not answer its own question")
	}
	if read.Answers(t.Context(), in, nil) {
		t.Error("whole trainings answer for single steps")
	}
	for name, change := range map[string]func(in *Input, t *Trials){
		"another executable": func(in *Input, _ *Trials) { in.A.SHA256 = "bb" },
		"another version":    func(in *Input, _ *Trials) { in.B.Backend = cpu.New("2") },
		"other images":       func(in *Input, _ *Trials) { in.Train.SHA256 = "00" },
		"another precision":  func(in *Input, _ *Trials) { in.Options.Precision = backend.Float32 },
		"more steps":         func(in *Input, _ *Trials) { in.Options.Steps = 9 },
		"more seeds":         func(_ *Input, t *Trials) { t.Seeds = 5 },
		"other weights": func(in *Input, _ *Trials) {
			in.Graph = g.Clone()
			in.Graph.Initialize(4, 0)
		},
	} {
		other, few := in, trials
		if change(&other, &few); read.Answers(t.Context(), other, &few) {
			t.Errorf("it answers for %s", name)
		}
	}
}
