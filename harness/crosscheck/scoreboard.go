package crosscheck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// Scoreboard is what was found out about several backends, a row for each precision.
type Scoreboard struct {
	Format  int    `json:"format"`
	Machine string `json:"machine"`
	Network string `json:"network"`
	Data    string `json:"data"` // SHA-256 of the training images
	Rows    []Row  `json:"rows"`
}

// Row is a backend in one precision.
type Row struct {
	Backend   string `json:"backend"`
	Version   string `json:"version"`
	Numerics  string `json:"numerics"`
	Device    string `json:"device"`
	Precision string `json:"precision"`
	Against   string `json:"against"` // in float32
	// Checks of the conformance suite, without those of other precisions.
	Passed     int `json:"passed"`
	Failed     int `json:"failed"`
	NotOffered int `json:"not_offered"`

	Steps    Outcome `json:"steps"`    // of Run
	Training Outcome `json:"training"` // of Converge
	// StepSeconds and AgainstSeconds are the median times of training steps, in turn.
	StepSeconds    float64 `json:"step_seconds"`
	AgainstSeconds float64 `json:"against_seconds"`
}

// Outcome is a certificate in short.
type Outcome struct {
	Pass        bool    `json:"pass"`
	Comparisons int     `json:"comparisons"`
	Share       float64 `json:"share"` // the largest part of a limit that was taken
	Place       string  `json:"place"` // where
	Verdict     string  `json:"verdict"`
}

// Outcome of a certificate.
func (c *Certificate) Outcome() Outcome {
	o := Outcome{Pass: c.Pass(), Comparisons: len(c.Checks), Verdict: c.Verdict()}
	for i := range c.Checks {
		if k := &c.Checks[i]; o.Place == "" || k.Share() > o.Share {
			o.Share, o.Place = min(k.Share(), math.MaxFloat64), k.Place
		}
	}
	return o
}

// Add adds the row that two certificates of the same backends make, and the counts of
// its conformance.
func (s *Scoreboard) Add(steps, training *Certificate, passed, failed, notOffered int) {
	s.Format, s.Machine, s.Network, s.Data = 1, steps.Machine, steps.Network, steps.Data
	d := steps.A.Description
	r := Row{
		Backend: d.Name, Version: d.Version, Numerics: d.Numerics, Precision: steps.Options.Precision, Against: steps.B.Description.Name,
		Passed: passed, Failed: failed, NotOffered: notOffered,
		Steps: steps.Outcome(), Training: training.Outcome(),
		StepSeconds: steps.A.StepSeconds, AgainstSeconds: steps.B.StepSeconds,
	}
	if len(d.Devices) > 0 {
		r.Device = d.Devices[0].Name + ": " + d.Devices[0].Info
	}
	s.Rows = append(s.Rows, r)
}

// OK reports whether nothing failed.
func (s *Scoreboard) OK() bool {
	for _, r := range s.Rows {
		if r.Failed > 0 || !r.Steps.Pass || !r.Training.Pass {
			return false
		}
	}
	return len(s.Rows) > 0
}

// Markdown is the scoreboard as a table.
func (s *Scoreboard) Markdown() string {
	var b strings.Builder
	b.WriteString("| backend | precision | device | conformance | step by step | whole trainings | step |\n|---|---|---|---|---|---|---|\n")
	said := func(o Outcome, by string) string {
		word := "agrees"
		if !o.Pass {
			word = "**parts**"
		}
		return fmt.Sprintf("%s: %d comparisons, at most %s of %s (%s)", word, o.Comparisons, format.Digits(o.Share, 2), by, o.Place)
	}
	for _, r := range s.Rows {
		failed := fmt.Sprintf("%d failed", r.Failed)
		if r.Failed > 0 {
			failed = "**" + failed + "**"
		}
		fmt.Fprintf(&b, "| %s %s | `%s` | %s | %d passed, %s, %d not offered | %s | %s | %s, %s × %s's |\n",
			r.Backend, r.Version, r.Precision, r.Device, r.Passed, failed, r.NotOffered, said(r.Steps, "a limit"), said(r.Training, "the margin"),
			format.Milliseconds(r.StepSeconds), format.Digits(r.StepSeconds/r.AgainstSeconds, 2), r.Against)
	}
	return b.String()
}

// Write puts scoreboard.json and scoreboard.md into dir.
func (s *Scoreboard) Write(dir string) error {
	if err := files.Mkdir(dir); err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	if err := files.Write(filepath.Join(dir, "scoreboard.json"), append(b, '\n')); err != nil {
		return err
	}
	var page bytes.Buffer
	fmt.Fprintf(&page, `# Backends, side by side

Made by `+"`refocus backends scoreboard`"+` on %s, with the network %s. Conformance is the suite
of `+"`refocus backends verify`"+`, without the checks of other precisions. The other two are
`+"`refocus crosscheck`"+`: every value, gradient and step against float64 within the bounds of
rounding, and many whole trainings against the other backend's in float32
([how both decide](../../harness/crosscheck/README.md)). The last column is the median time of a
training step and its ratio to the other backend's in float32, taken in turn.

%s`, s.Machine, s.Network, s.Markdown())
	return files.Write(filepath.Join(dir, "scoreboard.md"), page.Bytes())
}

// Read reads the certificate in dir.
func Read(dir string) (*Certificate, error) {
	path := filepath.Join(dir, "certificate.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c Certificate
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// Answers reports whether a certificate is one of the same backends, network, images
// and options, made on a machine like this; of whole trainings where t is set.
func (c *Certificate) Answers(ctx context.Context, in Input, t *Trials) bool {
	if t != nil {
		in.Options = t.options(in.Options)
	}
	text := func(d backend.Description) string {
		b, _ := json.Marshal(d) // of text and numbers alone
		return string(b)
	}
	r, err := newRun(in)
	if err != nil || (t == nil) != (c.Convergence == nil) || t != nil && c.Convergence.Trials != t.withDefaults() {
		return false
	}
	start, err := encodeWeights(r.g, initial(r.g))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(start)
	same := c.Format == r.cert.Format && c.Network == r.cert.Network && c.Data == r.cert.Data && c.Options == r.cert.Options &&
		c.Machine == r.cert.Machine && c.Weights == hex.EncodeToString(sum[:])
	for _, x := range []struct {
		of Subject
		id Identity
	}{{in.A, c.A}, {in.B, c.B}, {in.Oracle, c.Oracle}} {
		d, err := x.of.Backend.Describe(ctx)
		same = same && err == nil && x.id.SHA256 == x.of.SHA256 && text(d) == text(x.id.Description)
	}
	return same
}
