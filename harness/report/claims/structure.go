package claims

import (
	"fmt"
	"math"
	"strings"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// kind is the type of crystal of a structure domain: wurtzite, fcc, diamond,
// spinel or bcc, which the published ids begin with.
func kind(key string) string {
	k, _, _ := strings.Cut(key, "_")
	return k
}

// structures is the rule of finding 11.
func (e Evidence) structures() []Statement {
	s := e.Transfers
	before, after := s.Medians()
	const first = "Before transfer, models of the evaluated domain's own crystal type have a lower loss than the others, in the median over domains."
	second := fmt.Sprintf("After transfer, the target explains at least %.0f %% of the variance of the medians' logarithms, and more than before.", 100*mainly)
	var ratios []float64
	for j, c := range before.Columns {
		var same, other []float64
		for i, r := range before.Rows {
			switch {
			case r == c:
			case kind(r) == kind(c):
				same = append(same, before.Values[i][j])
			default:
				other = append(other, before.Values[i][j])
			}
		}
		if q := stats.Median(same) / stats.Median(other); !math.IsNaN(q) {
			ratios = append(ratios, q)
		}
	}
	b, a := stats.ByColumn(before, diagonal), stats.ByColumn(after, diagonal)
	return []Statement{decided(first, nil, below(1, "sources of the same to those of another type", ratios)), judged(second, a >= mainly && a > b, []Number{{"share before transfer", b, 0}, {"share after transfer", a, 0}})}
}
