package store

import (
	"math"
	"strconv"
)

// Curve is how the training of an unfinished run goes, on its target, for people to
// see. Its losses have their least possible value taken off, and all numbers are
// rounded to four digits.
type Curve struct {
	// Training are mean losses over parts of the epochs: where a part ends, in epochs,
	// and the loss.
	Training [][2]float64 `json:"training,omitempty"`
	// Validation are the outcomes after epochs, of very many a part: the epoch, loss
	// and Dice coefficient.
	Validation [][3]float64 `json:"validation,omitempty"`
}

// Loss is the last training loss. NaN is that of no curve.
func (c *Curve) Loss() float64 {
	if c == nil || len(c.Training) == 0 {
		return math.NaN()
	}
	return c.Training[len(c.Training)-1][1]
}

// Validated is the outcome of the last validation, NaN where there was none.
func (c *Curve) Validated() (loss, dice float64) {
	if c == nil || len(c.Validation) == 0 {
		return math.NaN(), math.NaN()
	}
	v := c.Validation[len(c.Validation)-1]
	return v[1], v[2]
}

// mostPoints of a curve are kept: a record has room for them, and a screen for no more.
const mostPoints = 100

// Recorder makes a Curve of any number of steps and epochs. The zero value is ready.
type Recorder struct {
	training   []bin
	width      int // steps of a full bin
	validation [][3]float64
}

// bin is a part of the training.
type bin struct {
	end, sum float64
	steps    int
}

// Step adds a training step with its loss; with it so many epochs are done. A loss
// that is no number, of a step that was skipped, does not count.
func (r *Recorder) Step(epochs, loss float64) {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return
	}
	r.width = max(r.width, 1)
	if n := len(r.training); n > 0 && r.training[n-1].steps < r.width {
		b := &r.training[n-1]
		b.end, b.sum, b.steps = epochs, b.sum+loss, b.steps+1
		return
	}
	if len(r.training) == mostPoints {
		for i := range mostPoints / 2 {
			a, b := r.training[2*i], r.training[2*i+1]
			r.training[i] = bin{b.end, a.sum + b.sum, a.steps + b.steps}
		}
		r.training = r.training[:mostPoints/2]
		r.width *= 2
	}
	r.training = append(r.training, bin{epochs, loss, 1})
}

// Validated adds the outcome after an epoch, counted from 1.
func (r *Recorder) Validated(epoch int, loss, dice float64) {
	if !math.IsNaN(loss) && !math.IsInf(loss, 0) && !math.IsNaN(dice) {
		r.validation = append(r.validation, [3]float64{float64(epoch), short(loss), short(dice)})
	}
}

// Curve is that of the steps and epochs so far. The last of each is in it.
func (r *Recorder) Curve() *Curve {
	if len(r.training) == 0 && len(r.validation) == 0 {
		return nil
	}
	c := new(Curve)
	for _, b := range r.training {
		c.Training = append(c.Training, [2]float64{short(b.end), short(b.sum / float64(b.steps))})
	}
	every := (len(r.validation) + mostPoints - 1) / mostPoints
	for i, v := range r.validation {
		if (len(r.validation)-1-i)%every == 0 {
			c.Validation = append(c.Validation, v)
		}
	}
	return c
}

// short rounds to four significant digits, more of whole numbers.
func short(v float64) float64 {
	if v == math.Trunc(v) {
		return v
	}
	x, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	return x
}
