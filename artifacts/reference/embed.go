// Package reference holds the published results of the study as compressed
// tables, so that a binary can compare with them anywhere. README.md in this
// folder says what they are, where they come from and under which licence (CC
// BY 4.0): whoever shows them names the authors.
package reference

import "embed"

// Attribution is to be shown wherever the tables or figures made of them are.
const Attribution = "Published results: L. Rangel DaCosta, H. Oill, M. C. Scott, Strategies for effective transfer learning for HRTEM analysis with neural networks, Elemental Microscopy (2025), DOI 10.69761/kjte5358, CC BY 4.0."

// Credit is the short form for the margin of a figure, in a document that shows
// Attribution as well.
const Credit = "Data: L. Rangel DaCosta, H. Oill, M. C. Scott (2025), DOI 10.69761/kjte5358, CC BY 4.0"

// FS holds defocus.csv.gz, baseline.csv.gz, noise.csv.gz and structure.csv.gz.
//
//go:embed *.csv.gz
var FS embed.FS
