package nn

// Size is the number of elements of a shape.
func Size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// GCD is the greatest common divisor.
func GCD(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// LCM is the least common multiple.
func LCM(a, b int) int { return a / GCD(a, b) * b }

// MostProbable is the most probable class of pixel i of probabilities [K,pixels],
// the first of equally probable ones.
func MostProbable[T float32 | float64](p []T, pixels, i int) int {
	best := i
	for at := i + pixels; at < len(p); at += pixels {
		if p[at] > p[best] {
			best = at
		}
	}
	return best / pixels
}
