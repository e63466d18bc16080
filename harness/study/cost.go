package study

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
)

// StatedGPURate is a rate in FLOP/s that a GPU of a workstation should sustain at the
// study's own size: about a third of an RTX 4090's peak in float32, 83 TFLOP/s. It is stated so that plans can be compared, and has not been measured:
// `refocus bench train --rates` measures one.
const StatedGPURate = 30e12

// Rate is a sustained training rate and what reaches it.
type Rate struct {
	Name  string  // "two CPU cores", "cuda:0 of torch, mixed"
	FLOPs float64 // per second, convolutions counted as if computed directly
	From  string  // "assumed", "stated", "measured at width 64, 512×512"
}

// String is the rate for people: "290 GFLOP/s".
func (r Rate) String() string {
	if r.FLOPs >= 1e12 {
		return format.Digits(r.FLOPs/1e12, 3) + " TFLOP/s"
	}
	return format.Digits(r.FLOPs/1e9, 3) + " GFLOP/s"
}

// about is an estimate of time for people, who are told where it is longer than can be
// counted.
func about(d time.Duration) string {
	if d == math.MaxInt64 {
		return "more than " + format.Duration(d)
	}
	return "about " + format.Duration(d)
}

// DefaultRates are those of a plan for which none is given.
func DefaultRates(width int) []Rate {
	return []Rate{
		{"two CPU cores", AssumedRate(width), "assumed"},
		{"a workstation's GPU", StatedGPURate, "stated, not measured"},
	}
}

// ParseRate reads a rate in FLOP/s, perhaps with a unit's prefix and a name before it:
// "30T", "H100=60T", "290G", "2.5e13".
func ParseRate(text string) (Rate, error) {
	name, number, ok := strings.Cut(text, "=")
	if !ok {
		name, number = "a device", text
	}
	scale := 1.0
	for suffix, s := range map[string]float64{"G": 1e9, "T": 1e12, "P": 1e15} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, scale = n, s
			break
		}
	}
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !(x*scale >= 1e6 && x*scale <= 1e21) || strings.TrimSpace(name) == "" {
		return Rate{}, fmt.Errorf("must be a rate in FLOP/s such as 30T or H100=60T, from 1e6 to 1e21")
	}
	return Rate{strings.TrimSpace(name), x * scale, "stated"}, nil
}

// Affordable is the time in days up to which a plan needs no advice.
const Affordable = 2

// afford says what would bring a plan's training to within a week, by the fastest of
// the rates.
func (p *Plan) afford(e Estimate, rates []Rate) []string {
	best := rates[0]
	for _, r := range rates {
		if r.FLOPs > best.FLOPs {
			best = r
		}
	}
	const day = 86400
	if e.FLOPs <= Affordable*day*best.FLOPs {
		return nil
	}
	flops := e.FLOPs
	var advice []string
	if e.PretrainingsShared < e.Pretrainings {
		s := *p.Study
		s.Training.PretrainSharing = ShareSeed
		if shared, err := s.Expand(); err == nil {
			flops = shared.Estimate().FLOPs
			advice = append(advice, fmt.Sprintf(`training.pretrain_sharing = "seed" leaves %s pretrainings of %s: %s at the same rate`,
				format.Count(int64(e.PretrainingsShared)), format.Count(int64(e.Pretrainings)), about(seconds(flops/best.FLOPs))))
		}
	}
	if n := flops / (7 * day * best.FLOPs); n > 1 {
		advice = append(advice, fmt.Sprintf("a week takes %s such as %s (reproduce --devices all, or tasks of a cluster: harness/testdata/refocus.sbatch)",
			format.Count(int64(n)+1), best.Name))
	}
	if p.Study.Profile == "paper" {
		advice = append(advice, "the profile workstation judges the same findings from a part of the design")
	}
	return advice
}

// modelBytes is what a run leaves: its weights and running statistics.
func (p *Plan) modelBytes() int64 {
	size := int64(4)
	if p.Study.Training.Precision == "float64" {
		size = 8
	}
	var n int64
	for _, t := range p.Network.Tensors {
		if t.Role != nn.Constant {
			n += int64(t.Len())
		}
	}
	return n * size
}
