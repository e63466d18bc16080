// Package crosscheck measures how far two backends differ, and says whether that
// is acceptable and where they part.
//
// Both are compared with an oracle in float64 on the same weights and the same
// batches. Backend A passes a comparison where its distance to the oracle is at
// most Options.Factor times the larger of B's own distance and of what a change
// of the weights by one float32 rounding does to the oracle, or under a stated
// floor. Where a component can be given A's own numbers it is judged on those
// alone, so that an error is found where it is made and not where it arrives:
// running statistics against A's own activations, the loss against A's own
// output, Adam against A's own gradients.
//
// The stages, in the order in which a fault is looked for: forward in training
// mode, running statistics, forward in inference mode, loss, gradients,
// optimiser, freezing, trajectory. A may compute in a precision below float32:
// Options.Precision. The Certificate names the first that fails.
package crosscheck
