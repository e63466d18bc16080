package study

import (
	"fmt"
	"math"
	"regexp"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/internal/bounds"
	"github.com/refocus-em/refocus/harness/nn"
)

// Limits keep a mistyped spec from asking for more than a machine can hold.
const (
	maxWidth   = 1024
	maxPixels  = 1 << 14 // per side of own images
	maxImages  = 1 << 20
	maxEpochs  = 100_000
	maxBatch   = 1 << 16
	maxDomains = 1_000
	maxModels  = 1_000_000
	maxClasses = 32
)

// Names appear in file names, so they are safe there on any system.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// checker collects problems; its methods name the key first.
type checker struct{ found []Problem }

func (c *checker) fail(path []string, format string, args ...any) {
	c.found = append(c.found, Problem{path: path, Message: fmt.Sprintf(format, args...)})
}

func at(path ...string) []string { return path }

// check adds what one of package bounds says.
func (c *checker) check(path []string, message string) {
	if message != "" {
		c.found = append(c.found, Problem{path: path, Message: message})
	}
}

func (c *checker) integer(path []string, n, lo, hi int) { c.check(path, bounds.Integer(n, lo, hi)) }

func (c *checker) number(path []string, x, lo, hi float64) {
	c.check(path, bounds.Number(x, lo, hi))
}

func (c *checker) positive(path []string, x, hi float64) { c.check(path, bounds.Positive(x, hi)) }

// simulation adds what the simulator says about fields of its configuration.
func (c *checker) simulation(found []hrtem.Problem) {
	for _, p := range found {
		c.check(at("simulation", p.Key), p.Message)
	}
}

// field adds what the simulator says about one field, whose value another key of
// the spec gives.
func (c *checker) field(path []string, key string, found []hrtem.Problem) {
	for _, p := range found {
		if p.Key == key {
			c.check(path, p.Message)
		}
	}
}

func (c *checker) oneOf(path []string, v string, valid ...string) {
	if !slices.Contains(valid, v) {
		c.fail(path, "%s", suggestValue(v, valid))
	}
}

// some wants a list to have an entry.
func some[T any](c *checker, path []string, list []T) {
	if len(list) == 0 {
		c.fail(path, "needs at least one entry")
	}
}

// distinct wants every entry of a list to be different.
func distinct[T comparable](c *checker, path []string, list []T) {
	seen := map[T]bool{}
	for _, v := range list {
		if seen[v] {
			c.fail(path, "has %v twice", v)
			return
		}
		seen[v] = true
	}
}

// check returns what is impossible about s: field by field, and where together
// is set also conditions between fields.
func (s *Study) check(together bool) []Problem {
	c := &checker{}
	s.checkFields(c)
	if together {
		s.checkTogether(c)
	}
	return c.found
}

func (s *Study) checkFields(c *checker) {
	switch {
	case s.Name == "":
		c.fail(at("name"), "is missing")
	case !nameRule.MatchString(s.Name):
		c.fail(at("name"), "%q must be 1 to 64 letters, digits, %q and %q, starting with a letter or digit", s.Name, "-", "_")
	}
	c.oneOf(at("kind"), s.Kind, Transfer, Mixture)
	c.oneOf(at("keep"), s.Keep, KeepWeights, KeepBest, KeepMetrics)
	s.Network.check(c)

	t := s.Training
	c.oneOf(at("training", "loss"), t.Loss, backend.LossOnProbabilities, backend.LossOnLogits)
	c.integer(at("training", "batch"), t.Batch, 1, maxBatch)
	c.positive(at("training", "learning_rate_decay"), t.LearningRateDecay, 1)
	for _, b := range []struct {
		key  string
		beta float64
	}{{"beta1", t.Adam.Beta1}, {"beta2", t.Adam.Beta2}} {
		if !(b.beta >= 0 && b.beta < 1) {
			c.fail(at("training", "adam", b.key), "must be at least 0 and less than 1, but is %g", b.beta)
		}
	}
	c.positive(at("training", "adam", "epsilon"), t.Adam.Epsilon, 1)
	c.integer(at("training", "initialisations"), t.Initialisations, 1, maxModels)
	c.oneOf(at("training", "pretrain_sharing"), t.PretrainSharing, ShareNone, ShareSeed)
	c.oneOf(at("training", "precision"), t.Precision, backend.Precisions...)
	c.oneOf(at("training", "precision_fallback"), t.PrecisionFallback, "", backend.Float32)
	c.integer(at("training", "power_cap_watts"), t.PowerCapWatts, 0, 10_000)

	s.checkGrid(c)
	for _, name := range keys(s.Own) {
		s.Own[name].check(c, at("domain", name), s.Network.ClassCount())
		if !nameRule.MatchString(name) {
			c.fail(at("domain", name), "a domain's name must be 1 to 64 letters, digits, %q and %q, starting with a letter or digit", "-", "_")
		}
	}

	switch s.Kind {
	case Transfer:
		c.integer(at("pretrain", "epochs"), s.Pretrain.Epochs, 1, maxEpochs)
		c.integer(at("pretrain", "images"), s.Pretrain.Images, 1, maxImages)
		c.rates(at("pretrain", "learning_rates"), s.Pretrain.LearningRates)
		c.integer(at("transfer", "epochs"), s.Transfer.Epochs, 1, maxEpochs)
		some(c, at("transfer", "images"), s.Transfer.Images)
		for _, n := range s.Transfer.Images {
			c.integer(at("transfer", "images"), n, 1, maxImages)
		}
		c.rates(at("transfer", "learning_rates"), s.Transfer.LearningRates)
		some(c, at("transfer", "frozen"), s.Transfer.Frozen)
		for _, f := range s.Transfer.Frozen {
			switch {
			case s.Network.ONNX == "":
				c.oneOf(at("transfer", "frozen"), f, FreezeNone, nn.Encoder, nn.Decoder)
			case !nameRule.MatchString(f): // it becomes part of a run's name
				c.fail(at("transfer", "frozen"), "%q must be 1 to 64 letters, digits, %q and %q, starting with a letter or digit", f, "-", "_")
			}
		}
	case Mixture:
		c.integer(at("mixture", "epochs"), s.Mixture.Epochs, 1, maxEpochs)
		some(c, at("mixture", "images"), s.Mixture.Images)
		for _, m := range s.Mixture.Images {
			for _, n := range m {
				c.integer(at("mixture", "images"), n, 1, maxImages)
			}
		}
		c.rates(at("mixture", "learning_rates"), s.Mixture.LearningRates)
	}
	s.checkZip(c)
}

func (c *checker) rates(path []string, rates []float64) {
	some(c, path, rates)
	for _, r := range rates {
		c.positive(path, r, 10)
	}
}

// simulated reports whether the study has a grid.
func (s *Study) simulated() bool {
	return len(s.Grid.Crystals)+len(s.Grid.Sizes)+len(s.Grid.Defocus)+len(s.Grid.Dose) > 0
}

func (s *Study) checkGrid(c *checker) {
	if !s.simulated() {
		if len(s.Own) == 0 {
			c.fail(at("grid"), "no domains: give grid.crystal, grid.defocus and grid.dose, or [domain.NAME] tables")
		}
		return
	}
	g := s.Grid
	crystals := slices.Sorted(slices.Values(crystal.Names()))
	some(c, at("grid", "crystal"), g.Crystals)
	distinct(c, at("grid", "crystal"), g.Crystals)
	for _, id := range g.Crystals {
		c.oneOf(at("grid", "crystal"), id, crystals...)
	}
	distinct(c, at("grid", "size"), g.Sizes)
	for _, size := range g.Sizes {
		if _, ok := s.Sizes[size]; !ok {
			if len(s.Sizes) == 0 {
				c.fail(at("grid", "size"), "%q has no radius: there is no table [sizes]", size)
			} else {
				c.fail(at("grid", "size"), "%s", suggestValue(size, keys(s.Sizes)))
			}
		}
	}
	for _, size := range keys(s.Sizes) {
		if !nameRule.MatchString(size) {
			c.fail(at("sizes", size), "a size's name must be letters, digits, %q and %q", "-", "_")
		}
		c.field(at("sizes", size), "radius", s.sized(size).CheckFields())
	}
	some(c, at("grid", "defocus"), g.Defocus)
	distinct(c, at("grid", "defocus"), g.Defocus)
	for _, d := range g.Defocus {
		c.field(at("grid", "defocus"), "defocus", hrtem.Conditions{Defocus: d}.Check())
	}
	some(c, at("grid", "dose"), g.Dose)
	distinct(c, at("grid", "dose"), g.Dose)
	for _, d := range g.Dose {
		c.field(at("grid", "dose"), "dose", hrtem.Conditions{Dose: d}.Check())
	}
	c.field(at("grid", "defocus_spread"), "defocus_std", hrtem.Conditions{DefocusStd: g.DefocusSpread}.Check())
	c.integer(at("grid", "train_images"), g.TrainImages, 1, maxImages)
	c.integer(at("grid", "validation_images"), g.ValidationImages, 1, maxImages)
	c.simulation(s.Simulation.CheckFields())
	for _, id := range keys(s.LabelBlur) {
		if !slices.Contains(crystals, id) {
			best, _ := nearest(id, crystals)
			c.fail(at("label_blur", id), "unknown crystal; nearest: %s", best)
		}
		c.field(at("label_blur", id), "label_blur", s.Simulation.Of(id, s.LabelBlur).CheckFields())
	}
}

// checkTogether looks at conditions between fields. It must stand values that
// checkFields has complained about.
func (s *Study) checkTogether(c *checker) {
	if s.simulated() {
		s.checkSimulation(c)
	}
	for _, group := range s.Zip {
		s.checkZipped(c, group)
	}
	s.checkSelection(c, "source", s.Source)
	s.checkSelection(c, "target", s.Target)
	s.checkStages(c)
	if len(c.found) == 0 {
		s.checkExpansion(c)
	}
}

// checkSimulation looks at conditions between fields of the simulation. Where
// sizes replace the radius, they have to fit.
func (s *Study) checkSimulation(c *checker) {
	found := s.Simulation.CheckTogether()
	if len(s.Grid.Sizes) > 0 {
		found = slices.DeleteFunc(found, func(p hrtem.Problem) bool { return p.Key == "radius" })
	}
	c.simulation(found)
	for _, size := range s.Grid.Sizes {
		if _, ok := s.Sizes[size]; ok {
			c.field(at("sizes", size), "radius", s.sized(size).CheckTogether())
		}
	}
}

// sized is the simulation with the radius that [sizes] has for a name.
func (s *Study) sized(size string) hrtem.Config {
	m := s.Simulation
	if r, ok := s.Sizes[size]; ok {
		m.Radius = r
	}
	return m
}

func (s *Study) checkSelection(c *checker, table string, sel Selection) {
	selectionList(c, at(table, "crystal"), sel.Crystals, s.Grid.Crystals)
	selectionList(c, at(table, "size"), sel.Sizes, s.Grid.Sizes)
	selectionList(c, at(table, "defocus"), sel.Defocus, s.Grid.Defocus)
	selectionList(c, at(table, "dose"), sel.Dose, s.Grid.Dose)
	selectionList(c, at(table, "domain"), sel.Own, keys(s.Own))
}

// selectionList wants a selection to name only values that the axis has.
func selectionList[T comparable](c *checker, path []string, list, axis []T) {
	distinct(c, path, list)
	for _, v := range list {
		if !slices.Contains(axis, v) {
			c.fail(path, "%v is not among the study's domains: %v", v, axis)
		}
	}
}

// checkStages wants every stage to have the images it asks for.
func (s *Study) checkStages(c *checker) {
	// least is the smallest pool that domains of a selection offer; own data of
	// unknown length is checked when it is read.
	least := func(sel Selection) (n int, where string) {
		n = math.MaxInt
		if s.simulated() && sel.grid() {
			n, where = s.Grid.TrainImages, "grid.train_images"
		}
		for _, name := range keys(s.Own) {
			if o := s.Own[name]; sel.own(name) && o.Crop == 0 && o.TrainImages > 0 && o.TrainImages < n {
				n, where = o.TrainImages, "domain."+name+".train_images"
			}
		}
		return n, where
	}
	enough := func(path []string, images int, sel Selection) {
		if n, where := least(sel); images > n {
			c.fail(path, "%d images are more than %s = %d", images, where, n)
		}
	}
	switch s.Kind {
	case Transfer:
		enough(at("pretrain", "images"), s.Pretrain.Images, s.Source)
		for _, n := range s.Transfer.Images {
			enough(at("transfer", "images"), n, s.Target)
		}
	case Mixture:
		for _, m := range s.Mixture.Images {
			enough(at("mixture", "images"), m[0], s.Source)
			enough(at("mixture", "images"), m[1], s.Target)
		}
	}
}

// checkExpansion wants a bounded number of domains and models, and some.
func (s *Study) checkExpansion(c *checker) {
	domains := float64(len(s.Own))
	if s.simulated() {
		g := s.Grid
		domains += float64(len(g.Crystals)) * float64(max(1, len(g.Sizes))) * float64(len(g.Defocus)) * float64(len(g.Dose))
	}
	if domains > maxDomains {
		c.fail(at("grid"), "%.0f domains are too many, at most %d", domains, maxDomains)
		return
	}
	pairs := len(s.pairs(s.domains()))
	if pairs == 0 {
		c.fail(at("source"), "there is nothing to train: no source domain has another domain as its target")
		return
	}
	if models := float64(pairs) * float64(s.configurations()) * float64(s.Training.Initialisations); models > maxModels {
		c.fail(at("training", "initialisations"), "the spec expands into %.0f models, at most %d", models, maxModels)
	}
}
