// Package stats has the rank statistics that results are compared with: medians
// and quantiles, Spearman's rank correlation and its partial form, matrices of
// medians, the bootstrap and Holm's correction for many tests at once.
//
// Losses are neither normal nor independent of scale, so nothing here assumes a
// distribution. What is independent is drawn again (Resampler): models that start
// from one pretrained model are not independent, so pretrained models are drawn
// first, and of each its transfers (A. C. Davison and D. V. Hinkley, Bootstrap
// Methods and their Application (1997), section 3.8). Where the observed values were
// themselves drawn again, from images that all of them share, every redraw serves some
// of the resamples (BootstrapRedrawn). Intervals are the central
// 95 % of the resamples. Values that were not measured are NaN; medians,
// quantiles and correlations leave them out.
package stats
