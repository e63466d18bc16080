// Package series has the trained models of a study in one form, whether they are
// ours or of the published tables, so that the same code draws and judges both.
//
// A Series is a study's two-stage models (Transfer) or single-stage ones
// (Single) with their best losses on every domain, above the least value of the
// study's loss (backend.LeastLoss). It is split by what models differ in
// (Factor), compared between configurations that differ in one thing only
// (Paired), and condensed into matrices of medians (Medians). PublishedDefocus,
// PublishedNoise and PublishedBaseline read the published tables (package
// artifacts/reference).
package series
