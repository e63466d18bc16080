package series

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// memo remembers what was computed of the models of a published series, which do
// not change, and redraws of ours: several reports of one process, and several parts of
// a report, ask for the same intervals of thousands of models.
type memo struct {
	first  *Transfer // of the models that it is about
	mu     sync.Mutex
	values map[string]any
}

// newMemo is of a series as it is now.
func newMemo(s *Series) *memo {
	if len(s.Transfers) == 0 {
		return nil
	}
	return &memo{first: &s.Transfers[0], values: map[string]any{}}
}

// published makes a series remember.
func published(s *Series, err error) (*Series, error) {
	if err == nil {
		s.memo = newMemo(s)
	}
	return s, err
}

// Remember makes a series, which is not changed any more, remember its redraws.
func (s *Series) Remember() { s.again = newMemo(s) }

// remembered is what compute gives, asked once where the series remembers. A copy
// of a series that was given other models does not.
func remembered[T any](s *Series, key string, compute func() T) T {
	return remember(s, s.memo, key, compute)
}

func remember[T any](s *Series, m *memo, key string, compute func() T) T {
	if m == nil || len(s.Transfers) == 0 || &s.Transfers[0] != m.first {
		return compute()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.values[key]; ok {
		return v.(T)
	}
	v := compute()
	m.values[key] = v
	return v
}

// digest tells groups apart.
func digest(groups []stats.Group) string {
	h := sha256.New()
	var b []byte
	for _, g := range groups {
		b = binary.LittleEndian.AppendUint64(b[:0], uint64(len(g.Values)))
		for i, v := range g.Values {
			b = binary.LittleEndian.AppendUint64(b, uint64(g.At[i]))
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
		h.Write(b)
	}
	return "groups " + string(h.Sum(nil))
}

// WithIntervals are groups of the models' values with the intervals of their medians.
func (s *Series) WithIntervals(groups func(*Series) []stats.Group) []stats.Group {
	g := groups(s)
	for i, interval := range remembered(s, digest(g), func() []*[2]float64 {
		var all []*[2]float64
		for _, x := range s.Bootstrap(len(g), func(s *Series) stats.Statistic { return stats.Medians(groups(s)) }) {
			all = append(all, x.Interval())
		}
		return all
	}) {
		g[i].Interval = interval
	}
	return g
}

// MediansWithIntervals are the medians before and after transfer with their 95 %
// intervals.
func (s *Series) MediansWithIntervals() (before, after *stats.Matrix) {
	m := remembered(s, "medians", func() [2]*stats.Matrix {
		b, a := s.Cells()
		before, after := s.medians(b), s.medians(a)
		n := b.Len()
		samples := s.Bootstrap(n+a.Len(), func(s *Series) stats.Statistic {
			b, a := s.Cells()
			return func(w []int, v []float64) {
				b.Fill(w, v[:n])
				a.Fill(w, v[n:])
			}
		})
		before.Intervals, after.Intervals = b.Intervals(samples[:n]), a.Intervals(samples[n:])
		return [2]*stats.Matrix{before, after}
	})
	return m[0], m[1]
}

// InOrder has the domains that are in a list in its order, and then the others.
func (s *Series) InOrder(domains []string) *Series {
	return remembered(s, "in order "+strings.Join(domains, " "), func() *Series {
		var order []string
		seen := map[string]bool{}
		for _, list := range [][]string{domains, s.Domains} {
			for _, d := range list {
				if s.Index(d) >= 0 && !seen[d] {
					seen[d] = true
					order = append(order, d)
				}
			}
		}
		part := s.on(order)
		if s.memo != nil {
			part, _ = published(part, nil)
		}
		return part
	})
}
