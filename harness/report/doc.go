// Package report turns the results of a study into tables, figures and a page to
// read: index.html, self-contained, with its figures beside it as SVG;
// results.csv and results.pkl (package pickle), in the columns of the published
// table of the same series and by its metric; models.csv, the losses of the weights
// that are kept; and claims.json, the published findings judged on our numbers and
// on the published ones.
//
// Everything is computed from an Input, which Gather fills from the store. Ours and
// the published results become the same thing first, a series of trained models
// with their best losses (package series), so that one piece of code draws
// (package plot) and judges (package claims) both: the tests pin its outcome on
// the published tables. These are part of the program (package
// artifacts/reference) and are never shown without their attribution.
//
// Nothing here depends on the time or the machine: the same Input gives the same
// bytes.
package report
