package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/refocus-em/refocus/harness/crosscheck"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
)

// disturbances is how many times a run is trained from weights that were rounded once
// more, where bits are not compared.
const disturbances = 2

// diceFloor is what a Dice coefficient may be off by where bits are not compared:
// pixels of two classes that are all but equally probable.
const diceFloor = 1e-3

// most is how many differences of a run are told.
const most = 6

// judge does the run again and compares.
func (s *subject) judge(ctx context.Context) Run {
	r := Run{Digest: s.manifest.Digest, ID: s.manifest.ID, Of: s.spec.Epochs}
	if was, d := s.spec.Backend, s.again.desc; was.Name != d.Name || was.Numerics != d.Numerics {
		r.Arithmetic = was.Name + ", " + was.Numerics
	}
	history, err := s.spec.ReadHistory(s.st, r.Digest)
	if err != nil {
		r.Outcome, r.Differences = Differs, []string{err.Error()}
		return r
	}
	failed := func(err error) Run {
		r.Outcome, r.Differences = NotAudited, []string{err.Error()}
		return r
	}
	var scores map[string]store.Score
	if r.Weights = !s.st.Dropped(r.Digest); r.Weights {
		if scores, err = s.again.Scores(ctx, r.Digest, nil); err != nil {
			return failed(err)
		}
	}
	again, err := s.again.Retrain(ctx, r.Digest, s.epochs)
	if err != nil {
		return failed(err)
	}
	r.Epochs = again.Epochs
	differences, err := s.compareBits(history, scores, again)
	switch {
	case err != nil:
		return failed(err)
	case len(differences) == 0:
		r.Outcome = SameBits
		return r
	case s.bits:
		r.Outcome, r.Differences = Differs, differences
		return r
	}
	t := &tolerance{}
	if err := s.compareLosses(ctx, t, history, scores, again); err != nil {
		return failed(err)
	}
	r.Distance, r.Limit = t.distance, t.limit
	r.Outcome, r.Differences = Within, t.differences
	if len(t.differences) > 0 {
		r.Outcome = Differs
	}
	return r
}

// compareBits says in what the run in the store is not the same bits.
func (s *subject) compareBits(history *store.History, scores map[string]store.Score, again *reproduce.Retrained) (differences []string, err error) {
	say := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	var h store.History
	if err := json.Unmarshal(again.History, &h); err != nil {
		return nil, err
	}
	if best := history.Epochs[history.Best-1].Validation; scores != nil && !maps.Equal(best, scores) {
		d := firstScore(best, scores)
		say("%s: the weights that it keeps give on %s a loss of %v and a Dice coefficient of %v, its history says %v and %v after epoch %d",
			store.WeightsFile, d, scores[d].Loss, scores[d].Dice, best[d].Loss, best[d].Dice, history.Best)
	}
	for i, e := range h.Epochs {
		was := history.Epochs[i]
		if reflect.DeepEqual(e, was) {
			continue
		}
		switch d := firstScore(was.Validation, e.Validation); {
		case e.TrainLoss != was.TrainLoss:
			say("%s: epoch %d: the training loss is %v, trained again it is %v", store.HistoryFile, i+1, was.TrainLoss, e.TrainLoss)
		case d != "":
			say("%s: epoch %d: on %s the loss is %v and the Dice coefficient %v, trained again they are %v and %v",
				store.HistoryFile, i+1, d, was.Validation[d].Loss, was.Validation[d].Dice, e.Validation[d].Loss, e.Validation[d].Dice)
		default:
			say("%s: epoch %d is %+v, trained again it is %+v", store.HistoryFile, i+1, was, e)
		}
		break // what follows from it differs too
	}
	if again.Epochs < s.spec.Epochs {
		return differences, nil
	}
	for _, f := range again.Files() {
		at := slices.IndexFunc(s.manifest.Files, func(o files.File) bool { return o.Name == f.Name })
		if at < 0 || s.manifest.Files[at] == f {
			continue
		}
		text := fmt.Sprintf("%s: its SHA-256 is %s, trained again it is %s", f.Name, s.manifest.Files[at].SHA256, f.SHA256)
		if f.Name == store.WeightsFile {
			if have, err := s.st.Weights(s.manifest.Digest); err == nil {
				text += ": " + compareWeights(have, again.Weights)
			}
		}
		say("%s", text)
	}
	return differences, nil
}

// firstScore names the first domain on which scores differ.
func firstScore(a, b map[string]store.Score) string {
	for _, d := range slices.Sorted(maps.Keys(a)) {
		if a[d] != b[d] {
			return d
		}
	}
	return ""
}

// compareWeights says how far two files of weights are apart.
func compareWeights(a, b []byte) string {
	x, err := safetensors.Decode(a)
	if err != nil {
		return err.Error()
	}
	y, err := safetensors.Decode(b)
	if err != nil {
		return err.Error()
	}
	off, all := 0, 0
	square, norm := 0.0, 0.0
	for _, t := range y.Tensors() {
		v, errY := y.Float32(t.Name)
		u, errX := x.Float32(t.Name)
		if errX != nil || errY != nil || len(u) != len(v) {
			return fmt.Sprintf("%s is not what it was", t.Name)
		}
		for i := range v {
			all++
			if math.Float32bits(u[i]) != math.Float32bits(v[i]) {
				off++
			}
			d := float64(u[i]) - float64(v[i])
			square += d * d
			norm += float64(v[i]) * float64(v[i])
		}
	}
	return fmt.Sprintf("%d of %d values differ, by %.2g of their norm", off, all, math.Sqrt(square/norm))
}

// tolerance judges losses by what one more rounding of the weights does to them.
type tolerance struct {
	factor, floor   float64
	rounding        float64 // the greatest relative change of a loss so far
	roundingDice    float64
	distance, limit float64
	differences     []string
}

// loss compares one loss.
func (t *tolerance) loss(where string, was, now float64) {
	limit := max(t.factor*t.rounding, t.floor)
	distance := math.Abs(was-now) / math.Abs(now)
	if was == now { // also nought
		distance = 0
	}
	t.distance, t.limit = max(t.distance, distance), max(t.limit, limit)
	if !(distance <= limit) && len(t.differences) < most {
		t.differences = append(t.differences, fmt.Sprintf("%s is %v, here it is %v: %.2g away, and rounding makes for %.2g at most", where, was, now, distance, limit))
	}
}

func (t *tolerance) dice(where string, was, now float64) {
	limit := max(t.factor*t.roundingDice, diceFloor)
	if distance := math.Abs(was - now); !(distance <= limit) && len(t.differences) < most {
		t.differences = append(t.differences, fmt.Sprintf("%s is %v, here it is %v: %.2g away, and rounding makes for %.2g at most", where, was, now, distance, limit))
	}
}

// rounded learns from what a rounding made of some scores.
func (t *tolerance) rounded(scores, disturbed map[string]store.Score) {
	for d, s := range scores {
		t.roundedLoss(s.Loss, disturbed[d].Loss)
		t.roundingDice = max(t.roundingDice, math.Abs(s.Dice-disturbed[d].Dice))
	}
}

func (t *tolerance) roundedLoss(loss, disturbed float64) {
	if loss != disturbed {
		t.rounding = max(t.rounding, math.Abs(loss-disturbed)/math.Abs(loss))
	}
}

func (t *tolerance) scores(where string, was, now map[string]store.Score) {
	for _, d := range slices.Sorted(maps.Keys(now)) {
		t.loss(fmt.Sprintf("%s: the loss on %s", where, d), was[d].Loss, now[d].Loss)
		t.dice(fmt.Sprintf("%s: the Dice coefficient on %s", where, d), was[d].Dice, now[d].Dice)
	}
}

// compareLosses judges a run of other arithmetic.
func (s *subject) compareLosses(ctx context.Context, t *tolerance, history *store.History, scores map[string]store.Score, again *reproduce.Retrained) error {
	o := crosscheck.Options{Precision: s.spec.Backend.Precision}.WithDefaults()
	// The floor is that of values: a loss is a mean of some.
	t.factor, t.floor = o.Factor, o.ForwardFloor
	round := func(k int) func(*nn.Graph) {
		return func(g *nn.Graph) { crosscheck.Round(g, uint64(k), o.Precision) }
	}
	for k := range disturbances {
		if scores == nil {
			break
		}
		disturbed, err := s.again.Scores(ctx, s.manifest.Digest, round(k))
		if err != nil {
			return err
		}
		t.rounded(scores, disturbed)
	}
	t.scores(fmt.Sprintf("its weights, by its history after epoch %d", history.Best), history.Epochs[history.Best-1].Validation, scores)

	read := func(r *reproduce.Retrained) (h store.History, err error) {
		err = json.Unmarshal(r.History, &h)
		return h, err
	}
	h, err := read(again)
	if err != nil {
		return err
	}
	var disturbed []store.History
	for k := range disturbances {
		r, err := s.again.Disturbed(ctx, s.manifest.Digest, s.epochs, round(k))
		if err != nil {
			return err
		}
		d, err := read(r)
		if err != nil {
			return err
		}
		disturbed = append(disturbed, d)
	}
	t.rounding, t.roundingDice = 0, 0
	for i, e := range h.Epochs {
		for _, d := range disturbed {
			t.roundedLoss(e.TrainLoss, d.Epochs[i].TrainLoss)
		}
		was := history.Epochs[i]
		t.loss(fmt.Sprintf("epoch %d: the training loss", i+1), was.TrainLoss, e.TrainLoss)
		for _, d := range disturbed {
			t.rounded(e.Validation, d.Epochs[i].Validation)
		}
		t.scores(fmt.Sprintf("epoch %d", i+1), was.Validation, e.Validation)
	}
	return nil
}
