package stats

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/refocus-em/refocus/harness/random"
)

// Draws is how many resamples an interval rests on.
const Draws = 2000

// leastDraws is the share of the resamples in which a statistic must be defined
// for it to have an interval.
const leastDraws = 0.9

// Unit says where an observation comes from. Strata are fixed by a study's
// design; the clusters of a stratum are independent, and as many as there are are
// drawn again; so are the observations of every block of a drawn cluster.
type Unit struct{ Stratum, Cluster, Block string }

// Resampler draws observations again, with replacement.
type Resampler struct {
	n      int
	strata [][][][]int // observations by stratum, cluster and block
	single bool        // no stratum has two clusters
}

// NewResampler is of observations in the order of their units.
func NewResampler(units []Unit) *Resampler {
	r := &Resampler{n: len(units), single: true}
	strata, clusters, blocks := map[string]int{}, map[[2]string]int{}, map[Unit]int{}
	for i, u := range units {
		s, ok := strata[u.Stratum]
		if !ok {
			s = len(r.strata)
			strata[u.Stratum] = s
			r.strata = append(r.strata, nil)
		}
		key := [2]string{u.Stratum, u.Cluster}
		c, ok := clusters[key]
		if !ok {
			c = len(r.strata[s])
			clusters[key] = c
			r.strata[s] = append(r.strata[s], nil)
			r.single = r.single && c == 0
		}
		b, ok := blocks[u]
		if !ok {
			b = len(r.strata[s][c])
			blocks[u] = b
			r.strata[s][c] = append(r.strata[s][c], nil)
		}
		r.strata[s][c][b] = append(r.strata[s][c][b], i)
	}
	return r
}

// Clusters is the number of independent clusters.
func (r *Resampler) Clusters() int {
	n := 0
	for _, s := range r.strata {
		n += len(s)
	}
	return n
}

// draw sets how often every observation is drawn.
func (r *Resampler) draw(from *rand.Rand, w []int) {
	clear(w)
	for _, clusters := range r.strata {
		for range clusters {
			for _, block := range clusters[from.IntN(len(clusters))] {
				if len(block) == 1 {
					w[block[0]]++
					continue
				}
				for range block {
					w[block[from.IntN(len(block))]]++
				}
			}
		}
	}
}

// Sample is a statistic of the observations, and of every resample.
type Sample struct {
	Value float64
	draws []float64 // sorted, finite; nil without an interval
}

// A Statistic fills in numbers of observations that are each drawn as often as w says,
// NaN for one that there is not.
type Statistic func(w []int, values []float64)

// Bootstrap evaluates n numbers of a statistic on the observations and on Draws
// resamples, the same ones every time.
func (r *Resampler) Bootstrap(n int, of Statistic) []Sample {
	return r.BootstrapRedrawn(n, 0, func(int) Statistic { return of })
}

// BootstrapRedrawn is Bootstrap where the values of the observations were themselves
// drawn again that many times: of gives their statistic for every redraw from 0, and
// for −1 that of the values as they are. Each redraw serves equally many resamples.
func (r *Resampler) BootstrapRedrawn(n, redraws int, of func(redraw int) Statistic) []Sample {
	w, values := make([]int, r.n), make([]float64, n)
	for i := range w {
		w[i] = 1
	}
	samples := make([]Sample, n)
	statistic := of(-1)
	statistic(w, values)
	for i, v := range values {
		samples[i].Value = v
	}
	if r.single {
		return samples
	}
	from := random.Stream(1, "bootstrap")
	last := -1
	for d := range Draws {
		if k := d * redraws / Draws; redraws > 0 && k != last {
			statistic, last = of(k), k
		}
		r.draw(from, w)
		statistic(w, values)
		for i, v := range values {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				samples[i].draws = append(samples[i].draws, v)
			}
		}
	}
	for i := range samples {
		s := &samples[i]
		if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) || float64(len(s.draws)) < leastDraws*Draws {
			s.draws = nil
			continue
		}
		slices.Sort(s.draws)
	}
	return samples
}

// Interval is the 95 % percentile interval, nil where the observations do not
// give one: nothing independent was repeated, or too many resamples have no value.
func (s Sample) Interval() *[2]float64 {
	if s.draws == nil {
		return nil
	}
	return &[2]float64{Quantile(s.draws, 0.025), Quantile(s.draws, 0.975)}
}

// P is twice the share of the resamples that are not on the value's side of a
// limit: the bootstrap's probability of the value, were the limit true. It is 1
// without resamples, and never 0.
func (s Sample) P(limit float64) float64 {
	if s.draws == nil || s.Value == limit {
		return 1
	}
	other := 0
	for _, v := range s.draws {
		if v == limit || v < limit == (s.Value > limit) {
			other++
		}
	}
	return min(1, 2*float64(other+1)/float64(len(s.draws)+1))
}

// Holm adjusts the probabilities of a family of tests so that a level is kept for
// all together (S. Holm, Scandinavian Journal of Statistics 6 (1979) 65).
func Holm(p []float64) []float64 {
	adjusted := make([]float64, len(p))
	last := 0.0
	for rank, i := range sortedOrder(p) {
		last = max(last, min(1, float64(len(p)-rank)*p[i]))
		adjusted[i] = last
	}
	return adjusted
}
