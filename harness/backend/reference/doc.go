// Package reference executes a graph in float64 by the most obvious loops there
// are, and differentiates it. It is the oracle of the conformance suite and of the
// cross-check's error bounds, and shares no code with any backend.
//
// It has the operators of the study's network. Whoever asks may take a hand in a
// pass: round what convolutions multiply, or disturb values and gradients on their
// way, which shows what rounding does to a result.
package reference
