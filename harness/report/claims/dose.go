package claims

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// doses is the rule of finding 10.
func (e Evidence) doses() []Statement {
	s := e.Transfers
	var numbers []Number
	for _, x := range s.ByTarget() { // in the order of the doses
		numbers = append(numbers, Number{s.Name(x.Level), stats.Median(x.Values), len(x.Values)})
	}
	const first = "After transfer, the median loss falls with every step to a higher dose of the target."
	second := fmt.Sprintf("After transfer, the target explains at least %.0f %% of the variance of the medians' logarithms.", 100*mainly)
	third := fmt.Sprintf("At the lowest dose, the worst source has at least %g times the median loss of the best.", matters)
	if len(numbers) < 2 {
		why := "only one target"
		return []Statement{unjudged(first, why), unjudged(second, why), unjudged(third, why)}
	}
	parts := []Statement{judged(first, decreasing(values(numbers)), numbers)}
	before, after := s.Medians()
	parts = append(parts, judged(second, stats.ByColumn(after, diagonal) >= mainly, []Number{
		{"share before transfer", stats.ByColumn(before, diagonal), 0}, {"share after transfer", stats.ByColumn(after, diagonal), 0}}))
	low := s.Targets()[0]
	ratio, n := worstToBest(after, func(r, c string) bool { return r == c || c != low })
	if n == 0 {
		return append(parts, unjudged(third, "the lowest dose has transfers from one source only"))
	}
	return append(parts, judged(third, ratio >= matters, []Number{{"worst to best at " + s.Name(low), ratio, 0}}))
}
