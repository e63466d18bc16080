package claims

// Outcomes of judging a finding.
const (
	Holds    = "holds"
	Fails    = "does not hold"
	Unjudged = "cannot be judged"
)

// Finding is one of the published findings, judged by the same rules on the
// published tables and on our results.
type Finding struct {
	Number    int       `json:"number"`
	Text      string    `json:"finding"`
	Published Judgement `json:"published"`
	Ours      Judgement `json:"ours"`
}

// Judgement is the outcome of a finding's parts: it holds where all do, does not
// where one does not, and cannot be judged where none fails and one cannot be
// judged.
type Judgement struct {
	Outcome string `json:"outcome"`
	// On says which models were looked at; "" where the finding is not about
	// what the study varies.
	On    string      `json:"on,omitempty"`
	Parts []Statement `json:"parts,omitempty"`
}

// Applies reports whether the finding is about what the study varies.
func (j Judgement) Applies() bool { return j.On != "" }

// Why is the first reason that explains a finding's outcome: what could not be
// judged, or which part does not hold.
func (j Judgement) Why() string {
	for _, p := range j.Parts {
		if p.Outcome == j.Outcome && p.Outcome != Holds {
			if p.Reason != "" {
				return p.Reason
			}
			return "not so: " + p.Text
		}
	}
	return ""
}

// Statement is what a finding says, or a part of it, and how that turned out.
type Statement struct {
	Text    string `json:"statement"`
	Outcome string `json:"outcome"`
	// Reason says why the statement cannot be judged.
	Reason  string   `json:"reason,omitempty"`
	Numbers []Number `json:"numbers,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
}

// Number is a value that was compared, and how many models it is of.
type Number struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Models int     `json:"models,omitempty"`
}

// Effect compares configurations that differ in one thing only: the median ratio
// of their losses, and by the sign test the interval of this median, where they
// are enough for one, and the probability of so uneven a split by chance.
// Configurations that share a pretrained model are not independent, so that
// intervals are rather too narrow.
type Effect struct {
	Name     string      `json:"name"`
	Ratio    float64     `json:"ratio"`
	Interval *[2]float64 `json:"interval_95,omitempty"`
	Below    int         `json:"below_one"`
	Pairs    int         `json:"pairs"`
	P        float64     `json:"sign_test_p"`
}
