package bounds

import (
	"math"
	"testing"
)

func TestBounds(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct{ got, want string }{
		{Integer(1, 1, 64), ""},
		{Integer(64, 1, 64), ""},
		{Integer(0, 1, 64), "must be at least 1, but is 0"},
		{Integer(65, 1, 64), "must be at most 64, but is 65"},
		{Number(0, 0, 2.5), ""},
		{Number(2.5, 0, 2.5), ""},
		{Number(-1e-3, 0, 2.5), "must be at least 0, but is -0.001"},
		{Number(math.Inf(1), 0, 2.5), "must be at most 2.5, but is +Inf"},
		{Number(nan, 0, 2.5), "must be a number"},
		{Positive(1e-300, 1), ""},
		{Positive(0, 1), "must be more than 0, but is 0"},
		{Positive(nan, 1), "must be more than 0, but is NaN"},
		{Positive(2, 1), "must be at most 1, but is 2"},
		{Span([2]float64{2, 2}, 2, 200), ""},
		{Span([2]float64{3, 2}, 2, 200), "wants [smallest, largest] between 2 and 200, but is [3, 2]"},
		{Span([2]float64{1, 2}, 2, 200), "wants [smallest, largest] between 2 and 200, but is [1, 2]"},
		{Span([2]float64{2, nan}, 2, 200), "wants [smallest, largest] between 2 and 200, but is [2, NaN]"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
