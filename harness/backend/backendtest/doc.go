// Package backendtest is the conformance suite of backends: whatever passes it
// can train and ask networks for the harness, and its results mean what the
// contract in package backend says.
//
// Run asks a backend for everything the contract defines and compares it with
// an independent one in float64 (package reference, the most obvious loops). What a backend declares that it lacks (an operator's rarer
// attributes, a loss, a precision, a determinism claim) is noted as not offered;
// what the study's network needs must be there.
//
// Gradients are compared on networks and images whose values Separate keeps from
// where a gradient jumps, so that the order in which a processor's kernels sum
// does not decide; tests of a backend's own can use it too.
//
// The suite is used from tests,
//
//	func TestConformance(t *testing.T) { backendtest.Test(t, mine.New(), backendtest.Options{}) }
//
// and on a plugin's executable with `refocus backends verify NAME`.
package backendtest
