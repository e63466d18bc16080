// Package bounds says in words that a value is out of bounds, the same words for
// a spec and for the simulator. Every function returns "" for a value within them.
package bounds

import (
	"fmt"
	"math"
)

// Integer wants lo ≤ n ≤ hi.
func Integer(n, lo, hi int) string {
	switch {
	case n < lo:
		return fmt.Sprintf("must be at least %d, but is %d", lo, n)
	case n > hi:
		return fmt.Sprintf("must be at most %d, but is %d", hi, n)
	}
	return ""
}

// Number wants lo ≤ x ≤ hi.
func Number(x, lo, hi float64) string {
	switch {
	case math.IsNaN(x):
		return "must be a number"
	case x < lo:
		return fmt.Sprintf("must be at least %g, but is %g", lo, x)
	case x > hi:
		return fmt.Sprintf("must be at most %g, but is %g", hi, x)
	}
	return ""
}

// Positive wants 0 < x ≤ hi.
func Positive(x, hi float64) string {
	switch {
	case !(x > 0):
		return fmt.Sprintf("must be more than 0, but is %g", x)
	case x > hi:
		return fmt.Sprintf("must be at most %g, but is %g", hi, x)
	}
	return ""
}

// Span wants lo ≤ r[0] ≤ r[1] ≤ hi.
func Span(r [2]float64, lo, hi float64) string {
	if !(r[0] >= lo && r[0] <= r[1] && r[1] <= hi) {
		return fmt.Sprintf("wants [smallest, largest] between %g and %g, but is [%g, %g]", lo, hi, r[0], r[1])
	}
	return ""
}
