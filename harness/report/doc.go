// Package report turns the results of a study into tables, figures and a page to
// read: index.html, self-contained, with SVG figures beside it, results.csv in
// the columns of the published tables, and claims.json, the published findings
// judged on our numbers.
//
// Everything is computed from an Input, which Load reads from the store. The
// published results are part of the program (package artifacts/reference) and
// are shown beside ours with their attribution.
package report
