package series

import (
	"math"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Redraws is how often validation images are drawn again where the losses of so many
// models on them are known: each time as many as there are, with replacement, and the
// same ones for every model and every domain whose images are of the same structures.
// 200 times or, of more than 1200 models, less often, so that a report of the study at
// its own size takes seconds; at least 20 times, which leaves the share of these images
// in an interval's width uncertain by a sixth of itself.
func Redraws(models int) int { return max(20, min(200, 200*1200/max(1, models))) }

// Images are the indices of a validation set's images in every redraw.
type Images [][]int

// RedrawImages draws n images again, so many times. structures names the set of
// structures that they are of.
func RedrawImages(structures string, n, redraws int) Images {
	all := make(Images, redraws)
	for k := range all {
		from := random.Stream(1, "validation images "+structures, uint64(k))
		for range n {
			all[k] = append(all[k], from.IntN(n))
		}
	}
	return all
}

// Means are those of the images' losses, less an offset, in every redraw.
func (r Images) Means(losses []float64, offset float64) []float32 {
	means := make([]float32, len(r))
	for k, images := range r {
		sum := 0.0
		for _, i := range images {
			sum += losses[i]
		}
		means[k] = float32(sum/float64(len(images)) - offset)
	}
	return means
}

// Redraw gives a series as it is on a redraw of the validation images.
type Redraw func(*Series) *Series

// Bootstrap evaluates n numbers of the models that r draws, and, where redraws is not
// 0, of their losses on as many redraws of the validation images. prepare makes the
// statistic of the models as at gives them.
func Bootstrap(r *stats.Resampler, n, redraws int, prepare func(at Redraw) stats.Statistic) []stats.Sample {
	return r.BootstrapRedrawn(n, redraws, func(k int) stats.Statistic {
		return prepare(func(s *Series) *Series { return s.redrawn(k) })
	})
}

// Bootstrap evaluates n numbers of the series' transfers; prepare makes the statistic of
// the series as it is given.
func (s *Series) Bootstrap(n int, prepare func(*Series) stats.Statistic) []stats.Sample {
	return Bootstrap(stats.NewResampler(s.Units()), n, s.Redraws, func(at Redraw) stats.Statistic { return prepare(at(s)) })
}

// redrawn is the series on a redraw of the validation images; as it is for −1.
func (s *Series) redrawn(k int) *Series {
	if k < 0 || s.Redraws == 0 {
		return s
	}
	return remember(s, s.again, strconv.Itoa(k), func() *Series { return s.drawAgain(k) })
}

func (s *Series) drawAgain(k int) *Series {
	part := *s
	part.memo, part.again = nil, nil
	part.Transfers, part.Singles = slices.Clone(s.Transfers), slices.Clone(s.Singles)
	room := make([]float64, 2*len(s.Domains)*len(s.Transfers))
	at := func(means [][]float32) []float64 {
		v := room[:len(means):len(means)]
		room = room[len(means):]
		for i, m := range means {
			v[i] = math.NaN()
			if m != nil {
				v[i] = float64(m[k])
			}
		}
		return v
	}
	for i := range part.Transfers {
		o := &part.Transfers[i]
		o.Before, o.After = at(o.BeforeRedrawn), at(o.AfterRedrawn)
	}
	for i := range part.Singles {
		m := &part.Singles[i]
		for j, means := range m.LossRedrawn {
			m.Loss[j] = math.NaN()
			if means != nil {
				m.Loss[j] = float64(means[k])
			}
		}
	}
	return &part
}
