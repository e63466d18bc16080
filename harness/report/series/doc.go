// Package series has the trained models of a study in one form, whether they are
// ours or of the published tables, so that the same code draws and judges both.
//
// A Series is a study's two-stage models (Transfer) or single-stage ones
// (Single) with their losses on every domain, above the least value of the
// study's loss (backend.LeastLoss), by one of two metrics: the least over the
// epochs on every domain by itself, as the tables have it (AsPublished), or those
// of the weights that are kept (Kept). Units says which models are independent of
// which; Bootstrap draws these, and the images of the validation sets where the losses
// of single ones are known (Redraws). A series is split by what models differ in (Factor), compared between
// configurations that differ in one thing only (Paired), and condensed into
// matrices of medians (Medians). PublishedDefocus, PublishedNoise,
// PublishedStructure and PublishedBaseline read the published tables (package
// artifacts/reference). Rules are guesses at which cells are hard that need no
// model.
package series
