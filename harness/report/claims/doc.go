// Package claims judges the twelve published findings by the same rules on the
// published tables and on our models.
//
// Each finding is a sentence and a rule that turns evidence, the models of a
// series, into checked statements (Part). Where a statement compares models that
// differ in one thing only, the sign test's interval of the median ratio decides;
// where there is too little to decide, a statement cannot be judged, which is not
// the same as not holding. judge.go has the judge and the table of findings, the
// other files the rules by what they are about.
package claims
