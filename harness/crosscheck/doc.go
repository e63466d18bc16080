// Package crosscheck measures how far two backends differ, and says whether that
// is acceptable and where they part.
//
// A's results are judged one operator at a time, by what the operator makes in
// float64 of A's own operands: an error is found where it is made and not where it
// arrives, and what a correct implementation may be off by follows from the shapes
// and the values (rounding.go). Two limits apply. No value may be off by more than
// the rounding errors of its operations can add up to, in any order of summation
// (Higham's γ_n Σ|ab|) and in Winograd's transforms up to F(4×4,3×3). All together
// may not be off by more than 4.9 times what is expected where the errors are
// independent of each other; for a convolution of many channels, whose transforms
// could in the worst case err much more than they ever do, that is the limit that
// finds faults. Fourier transforms do not count as correct implementations.
//
// Gradients are judged by the reference's, propagated through A's own values, and by
// the noise that disturbing every operation on the way back makes (noise.go).
//
// Beside both stands the yardstick: both backends are compared with an oracle in
// float64 on the same weights and batches, and A's distance has been found to stay
// below Options.Factor times the larger of B's own and of what a change of the weights
// by one rounding does to the oracle. It decides where nothing else can: over many
// steps of training, which double a rounding error every few, and for networks with
// operators that package reference lacks.
//
// The stages, in the order in which a fault is looked for: forward in training
// mode, running statistics, forward in inference mode, loss, gradients,
// optimiser, every step of a longer run, freezing, trajectory. A may compute in a precision below float32:
// Options.Precision. The Certificate names the first that fails.
//
// Converge compares whole trainings instead (convergence.go), as MLPerf's rules for
// reference convergence points compare submissions: many pairs of short trainings, of
// which no step agrees, by the means of what came of them. A margin says what may differ,
// and tests of equivalence with what probability it is wrongly said to.
package crosscheck
