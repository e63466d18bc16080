// Package audit finds out whether what a store holds was really computed.
//
// Digests tell that a file is as it was written, not that a training wrote it. An audit
// compares all of them, draws runs at random, and for each of them
//
//   - validates the weights that it keeps, which must score what its history says of
//     its best epoch;
//   - trains it again, wholly or for its first epochs, from the settings that its
//     digest covers, and compares the history and, of whole runs, the weights.
//
// A transfer begins with the weights that the store has of its parent: the parent is a
// run like others, which may be drawn. Images that were simulated are drawn too, and
// simulated again.
//
// Where the backend claims that its bits do not depend on the machine (or, for weaker
// claims, on the same machine), all bits must be the same. Elsewhere the yardstick of
// crosscheck's trajectories holds: a loss may be off by as many times as
// crosscheck.Options.Factor what one more rounding of the initial weights makes of it
// in the same training, or by its floor. Where rounding has grown to the size of the
// losses' own spread that says little, and the receipt has the limits.
//
// What a sample says of all is exact (hypergeometric): see Bound. The seed that the
// sample is drawn by goes through a hash together with the root of everything in the
// store, so that nobody can arrange a store for a seed that he knows.
//
// The outcome is a Receipt, signed by a key of whoever audits (Ed25519).
package audit
