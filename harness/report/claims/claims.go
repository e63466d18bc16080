package claims

import "strings"

// Outcomes of judging a finding or a statement.
const (
	Holds    = "holds"
	Fails    = "does not hold"
	Open     = "open"
	Unjudged = "cannot be judged"
)

// Finding is one of the published findings, judged by the same rules on the
// published tables and on our results.
type Finding struct {
	Number int    `json:"number"`
	Text   string `json:"finding"`
	// Quote is what the paper says, in Section.
	Quote   string `json:"quote"`
	Section string `json:"section"`
	// Published is judged on the published tables, Ours on the weights our models
	// keep, OursAsPublished on ours by the metric of the published tables.
	Published       Judgement `json:"published"`
	Ours            Judgement `json:"ours"`
	OursAsPublished Judgement `json:"ours_as_published"`
}

// Judgement is the outcome of a finding's statements: it does not hold where one
// does not, is open where one is, cannot be judged where one cannot, and holds
// where all do; and it is open where that does not outlast the correction for the
// number of findings.
type Judgement struct {
	Outcome string `json:"outcome"`
	// On says which models were looked at; "" where the finding is not about
	// what the study varies.
	On         string      `json:"on,omitempty"`
	Statements []Statement `json:"statements,omitempty"`
	// P is the probability of the outcome by chance, 1 for none, and Adjusted is P
	// after Holm's correction over Family findings.
	P        float64 `json:"p,omitempty"`
	Adjusted float64 `json:"p_adjusted,omitempty"`
	Family   int     `json:"family,omitempty"`
	// Corrected says why an outcome by the statements alone is none; "" where it is
	// as they say.
	Corrected string `json:"corrected,omitempty"`
}

// Applies reports whether the finding is about what the study varies.
func (j Judgement) Applies() bool { return j.On != "" }

// Why is the first reason that explains a finding's outcome: what could not be
// judged, or which statement is open or does not hold.
func (j Judgement) Why() string {
	if j.Corrected != "" {
		return j.Corrected
	}
	for _, s := range j.Statements {
		if s.Outcome == j.Outcome && s.Outcome != Holds {
			if s.Reason != "" {
				return s.Reason
			}
			return "not so: " + strings.TrimSuffix(s.Text, ".")
		}
	}
	return ""
}

// Against says how ours compares with the published outcome.
func (f Finding) Against() string {
	o, p := f.Ours.Outcome, f.Published.Outcome
	decided := func(s string) bool { return s == Holds || s == Fails }
	switch {
	case !decided(o) || !decided(p):
		return ""
	case o == p && o == Fails:
		return "as in the published table, which does not bear it out either"
	case o == p:
		return "as in the published table"
	case p == Fails:
		return "unlike the published table, which does not bear it out"
	}
	return "unlike the published table"
}

// Statement is what a finding says, or a part of it, and how that turned out.
type Statement struct {
	Text    string `json:"statement"`
	Outcome string `json:"outcome"`
	// Reason says why the statement is open or cannot be judged.
	Reason string `json:"reason,omitempty"`
	// Limits says which limits are ours, not the paper's, and why; "" where none
	// is.
	Limits  string   `json:"limits,omitempty"`
	Tests   []Test   `json:"tests,omitempty"`
	Numbers []Number `json:"numbers,omitempty"`
}

// Test is a number that a statement wants between two limits.
type Test struct {
	Name     string      `json:"name"`
	Value    float64     `json:"value"`
	Interval *[2]float64 `json:"interval_95,omitempty"`
	// Low and High are the limits, nil for none.
	Low  *float64 `json:"above,omitempty"`
	High *float64 `json:"below,omitempty"`
	// P is the bootstrap's probability of the value's side of the nearer limit by
	// chance.
	P float64 `json:"p"`
	// Of says what the number is of.
	Of string `json:"of"`

	missing string // why there is no value
}

// Number is a median that is shown beside a test, and how many models it is of.
type Number struct {
	Name     string      `json:"name"`
	Value    float64     `json:"value"`
	Interval *[2]float64 `json:"interval_95,omitempty"`
	Models   int         `json:"models"`
}
