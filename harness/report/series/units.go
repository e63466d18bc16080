package series

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// Units say what the transfers come from. Sources and rates of the pretraining
// are the design's; of each, pretrained models are independent, and of a
// pretrained model the transfers to a target. Where every source has one
// pretrained model only, sources are drawn instead: intervals then say how far the
// outcome hangs on which domains were pretrained on.
func (s *Series) Units() []stats.Unit {
	u := make([]stats.Unit, len(s.Transfers))
	for i := range s.Transfers {
		u[i] = s.unit(s.Transfers[i].Config, s.Transfers[i].Init, i)
	}
	return independent(u)
}

// unit of a transfer, or of a comparison of transfers, with a number of its own.
func (s *Series) unit(c Config, init, number int) stats.Unit {
	source := fmt.Sprintf("%s at %g", c.Source, c.PretrainRate)
	if s.Shared {
		return stats.Unit{Stratum: source, Cluster: fmt.Sprint(init), Block: c.Target}
	}
	return stats.Unit{Stratum: source + " to " + c.Target, Cluster: fmt.Sprint(number)}
}

// independent makes one stratum of all where none has two clusters.
func independent(u []stats.Unit) []stats.Unit {
	cluster := map[string]string{}
	for _, x := range u {
		if c, ok := cluster[x.Stratum]; ok && c != x.Cluster {
			return u
		}
		cluster[x.Stratum] = x.Cluster
	}
	for i := range u {
		u[i].Stratum, u[i].Cluster = "", u[i].Stratum+" "+u[i].Cluster
	}
	return u
}

// SingleUnits say likewise of single-stage models, which are all independent, by
// their pair of domains; where each pair has one model, pairs are drawn.
func (s *Series) SingleUnits() []stats.Unit {
	u := make([]stats.Unit, len(s.Singles))
	for i, m := range s.Singles {
		u[i] = stats.Unit{Stratum: fmt.Sprint(m.Domains, m.Images, m.Rate), Cluster: fmt.Sprint(i)}
	}
	return independent(u)
}

// Pretrained is the number of pretrained models that the transfers come from.
func (s *Series) Pretrained() int {
	all := make([]int, len(s.Transfers))
	for i := range all {
		all[i] = i
	}
	return s.PretrainedOf(all)
}

// PretrainedOf is the number of pretrained models that some transfers come from.
func (s *Series) PretrainedOf(transfers []int) int {
	if !s.Shared {
		return len(transfers)
	}
	type model struct {
		source string
		rate   float64
		init   int
	}
	seen := map[model]bool{}
	for _, i := range transfers {
		o := &s.Transfers[i]
		seen[model{o.Source, o.PretrainRate, o.Init}] = true
	}
	return len(seen)
}

// RowWeights are how often the sources of a matrix are drawn when transfers are:
// once each, unless it is sources that are drawn.
func (s *Series) RowWeights(rows []string, w []int) []float64 {
	at := map[string]int{}
	for i, r := range rows {
		at[r] = i
	}
	drawn, all := make([]float64, len(rows)), make([]float64, len(rows))
	for i := range s.Transfers {
		if k, ok := at[s.Transfers[i].Source]; ok {
			drawn[k] += float64(w[i])
			all[k]++
		}
	}
	for k := range drawn {
		if all[k] > 0 {
			drawn[k] = math.Round(drawn[k] / all[k])
		}
	}
	return drawn
}

// Only is the part of a series that is about some of its domains.
func (s *Series) Only(keep func(domain string) bool) *Series {
	var domains []string
	for _, d := range s.Domains {
		if keep(d) {
			domains = append(domains, d)
		}
	}
	return s.on(domains)
}

// on is the series on some of its domains.
func (s *Series) on(domains []string) *Series {
	part := *s
	part.Domains, part.Transfers, part.Singles, part.memo, part.again = domains, nil, nil, nil, nil
	at := make([]int, len(domains))
	for i, d := range domains {
		at[i] = s.Index(d)
	}
	for _, o := range s.Transfers {
		if part.Index(o.Source) >= 0 && part.Index(o.Target) >= 0 {
			o.Before, o.After = take(o.Before, at), take(o.After, at)
			o.BeforeRedrawn, o.AfterRedrawn = take(o.BeforeRedrawn, at), take(o.AfterRedrawn, at)
			part.Transfers = append(part.Transfers, o)
		}
	}
	for _, m := range s.Singles {
		if part.Index(m.Domains[0]) >= 0 && part.Index(m.Domains[1]) >= 0 {
			part.Singles = append(part.Singles, m)
		}
	}
	return &part
}

// take are the values at some places, nil of none.
func take[T any](values []T, at []int) []T {
	if values == nil {
		return nil
	}
	t := make([]T, len(at))
	for i, k := range at {
		t[i] = values[k]
	}
	return t
}

// SizeOf is the part of a structure domain's key after the crystal: "small",
// "large", or "" where there is none.
func SizeOf(key string) string {
	if c := CrystalOf(key); c != key {
		return key[len(c)+1:]
	}
	return ""
}

// SymmetryOf is the type of crystal of a structure domain, wurtzite (w), fcc,
// diamond (dc), spinel or bcc, which the published keys begin with.
func SymmetryOf(key string) string {
	for i := range key {
		if key[i] == '_' {
			return key[:i]
		}
	}
	return key
}
