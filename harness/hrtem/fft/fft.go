// Package fft transforms square complex64 fields, for sizes whose prime factors
// are 2, 3 and 5.
package fft

// Supported reports whether n has no other prime factors than 2, 3 and 5.
func Supported(n int) bool {
	if n < 1 {
		return false
	}
	for _, p := range []int{2, 3, 5} {
		for n%p == 0 {
			n /= p
		}
	}
	return n == 1
}
