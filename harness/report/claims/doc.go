// Package claims judges the published findings by the same rules on the published
// tables and on our models.
//
// Each finding is a sentence, the words of the paper that it comes from, and a
// rule: statements about numbers that must lie between limits (Test), with the
// reason for every limit that the paper does not give. Every number has an
// interval from resampling what is independent (packages stats and series). A statement holds
// where all its intervals lie within their limits, does not where one lies
// outside, and is open where a limit lies in an interval. Over the findings of a
// study Holm's correction keeps the level of 5 %: a finding that holds by itself
// and not after it is open. Where there is nothing to measure, a statement cannot
// be judged, which is none of these.
//
// Ours are judged on the weights that are kept (series.Kept), and once more by the
// metric of the published tables (series.AsPublished). judge.go has the judge,
// findings.go the findings, the other files the rules by what they are about.
package claims
