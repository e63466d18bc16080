package study

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// PlanOptions say what an estimate of time assumes.
type PlanOptions struct {
	// Rates are sustained training rates; none for DefaultRates.
	Rates []Rate
	// Cores that simulate; 0 for 2.
	Cores int
}

// AssumedRate is the rate in FLOP/s, convolutions counted as if computed
// directly, at which the CPU backend trains a network of some width on two
// cores (AMD EPYC with AVX2, 64 × 64 pixels; `just bench`, and for width 8 whole
// quick runs): narrow networks keep the vector units less busy.
func AssumedRate(width int) float64 {
	switch {
	case width >= 64:
		return 290e9
	case width >= 32:
		return 240e9
	case width >= 16:
		return 185e9
	}
	return 80e9
}

// WritePlan describes a plan in words: what it trains, on what, and what that
// costs.
func WritePlan(w io.Writer, p *Plan, o PlanOptions) error {
	s, e := p.Study, p.Estimate()
	if o.Cores == 0 {
		o.Cores = 2
	}
	if o.Rates == nil {
		o.Rates = DefaultRates(p.Width())
	}

	b := bufio.NewWriter(w)
	profile := ""
	if s.Profile != "" {
		profile = ", profile " + s.Profile
	}
	fmt.Fprintf(b, "%s%s: %s\n\n", s.Name, profile, s.Title)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	network := fmt.Sprintf("U-Net of width %d", s.Network.Width)
	if s.Network.ONNX != "" {
		network = fmt.Sprintf("%s, %s parameters, weights %s", s.Network.ONNX, format.Count(int64(p.Network.Count(""))), s.Network.Weights)
	}
	row("network", "%s, %s, %s", network, s.Training.Loss, precision(s.Training))
	row("domains", "%d: %s", len(p.Domains), names(p.Domains))
	if e.Structures > 0 {
		g, m := s.Grid, s.Simulation
		row("structures", "%s to simulate (%d training + %d validation each), %s samples",
			format.Count(int64(e.Structures)), g.TrainImages, g.ValidationImages, format.Size(m.Grid, m.Grid))
		row("images", "%s of %s pixels at %s; %s, and %s of exit waves unless they are dropped",
			format.Count(int64(e.Images)), format.Size(m.Crop, m.Crop), format.PixelSize(m.Cell/float64(m.Output)), format.Bytes(e.ImageBytes), format.Bytes(e.WaveBytes))
	}
	if s.Kind == Transfer {
		row("pretrainings", "%s (%s shared per seed, %s without sharing)",
			format.Count(int64(e.Pretrainings)), format.Count(int64(e.PretrainingsShared)), format.Count(int64(e.PretrainingsUnshared)))
	}
	row("models", "%s = %s", format.Count(int64(e.Models)), s.product(len(s.pairs(p.Domains))))
	row("training", "%s image-steps, %s validation images", format.Count(e.ImageSteps), format.Count(e.ValidationImages))
	row("work", "%s FLOP", format.Digits(e.FLOPs, 2))
	name := "time"
	for _, r := range o.Rates {
		row(name, "%s to train at %s, %s for %s", about(e.TrainingTime(r.FLOPs)), r, r.From, r.Name)
		name = ""
	}
	if e.Structures > 0 {
		row("", "and %s to simulate on %d cores", format.Duration(e.SimulationTime(o.Cores)), o.Cores)
	}
	kept := fmt.Sprintf("%s of weights, %s a run", format.Bytes(e.KeptBytes), format.Bytes(p.modelBytes()))
	if e.KeptModels < len(p.Runs) {
		kept = fmt.Sprintf("%s of weights (keep = %q: of %s of %s runs, %s each; all would be %s)", format.Bytes(e.KeptBytes), s.Keep,
			format.Count(int64(e.KeptModels)), format.Count(int64(len(p.Runs))), format.Bytes(p.modelBytes()), format.Bytes(e.ModelBytes))
	}
	row("space", "%s, %s of histories, records and logs", kept, format.Bytes(e.RecordBytes))
	if e.WaitingBytes > 0 {
		row("", "and %s of pretrained weights until all transfers from them are done", format.Bytes(e.WaitingBytes))
	}
	row("", "and %s for the checkpoint of every run that is begun and not finished", format.Bytes(e.CheckpointBytes))
	if e.ImageBytes > 0 {
		row("", "with images and exit waves %s in all when it is finished (%s without exit waves)", format.Bytes(e.StoreBytes()), format.Bytes(e.StoreBytes()-e.WaveBytes))
	}
	name = "affordable"
	for _, advice := range p.afford(e, o.Rates) {
		row(name, "%s", advice)
		name = ""
	}
	if e.AssumedSize > 0 {
		row("note", "own images count as %s pixels; give their size in the spec for a better estimate", format.Size(e.AssumedSize, e.AssumedSize))
	}
	return b.Flush()
}

// ProfileName is the profile's name for people and folders: "base" where none was
// applied.
func (s *Study) ProfileName() string {
	if s.Profile == "" {
		return "base"
	}
	return s.Profile
}

// WriteRuns writes one JSON object per run and line.
func WriteRuns(w io.Writer, p *Plan) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for _, r := range p.Runs {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return b.Flush()
}

// product spells out how the number of models comes about.
func (s *Study) product(pairs int) string {
	var factors []string
	add := func(n int, one, many string) {
		if n == 1 {
			factors = append(factors, "1 "+one)
		} else {
			factors = append(factors, fmt.Sprintf("%d %s", n, many))
		}
	}
	add(pairs, "pair", "pairs")
	axes := s.axes()
	for _, loop := range s.loops(axes) {
		first := axes[loop[0]]
		if len(loop) == 1 {
			add(first.length, first.one, first.many)
			continue
		}
		var together []string
		for _, k := range loop {
			together = append(together, axes[k].one)
		}
		add(first.length, "combination of "+strings.Join(together, ", "), "combinations of "+strings.Join(together, ", "))
	}
	add(s.Training.Initialisations, "initialisation", "initialisations")
	return strings.Join(factors, " × ")
}

func precision(t Training) string {
	p := t.Precision + " precision"
	if t.PrecisionFallback != "" && t.PrecisionFallback != t.Precision {
		p += " (or " + t.PrecisionFallback + ")"
	}
	if t.PowerCapWatts > 0 {
		p += fmt.Sprintf(", GPU capped at %d W", t.PowerCapWatts)
	}
	return p
}

// names lists domains, a first word that all share only once, and the middle
// left out where there are many.
func names(domains []Domain) string {
	const most = 12
	shared, _, _ := strings.Cut(domains[0].Name, " ")
	for _, d := range domains {
		if !strings.HasPrefix(d.Name, shared+" ") {
			shared = ""
			break
		}
	}
	var n []string
	for i, d := range domains {
		switch name := strings.TrimPrefix(d.Name, shared+" "); {
		case len(domains) <= most || i < most-2 || i == len(domains)-1:
			n = append(n, name)
		case i == most-2:
			n = append(n, "…")
		}
	}
	return strings.TrimSpace(shared + " " + strings.Join(n, ", "))
}
