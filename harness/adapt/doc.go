// Package adapt brings a model to the conditions of a session's micrographs, of which
// nobody has labels: it estimates the conditions from the micrographs, simulates labelled
// images under them, and trains the model on from its weights.
//
//	Open ─► Model ─┐
//	micrographs ───┴─► Model.Estimate ─► Estimate ─► Estimate.Spec ─► Run ─► Result
//
// An Estimate holds the pixel size (as the files say), the dose (as the files say, or
// counted where pixels are electrons), and the defocus with its side (package
// hrtem/thon), each with an error and where it comes from, or as unknown; and warnings
// where the model was trained elsewhere. Micrographs given together are taken for one
// session: one specimen, one microscope, one focus up to its spread.
//
// Run writes the spec of a study of a single run and carries it out with the packages
// that carry out every other: interrupted, it goes on; the spec, which stays beside the
// model, gives the same model again.
package adapt
