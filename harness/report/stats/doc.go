// Package stats has the rank statistics that results are compared with: medians
// and quantiles, Spearman's rank correlation, the sign test with its interval of
// the median, and matrices of medians.
//
// Losses are neither normal nor independent of scale, so nothing here assumes a
// distribution. Values that were not measured are NaN; medians, quantiles and
// correlations leave them out.
package stats
