package audit

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/random"
)

// Sample is how many of a number to draw: N, or a Share of them where that is not 0.
type Sample struct {
	N     int
	Share float64
}

// ParseSample reads "20", "5%", "0.05" or "all".
func ParseSample(s string) (Sample, error) {
	bad := func() (Sample, error) {
		return Sample{}, fmt.Errorf("%q is neither a number of runs, such as 20, nor a share of them, such as 5%% or 0.05, nor all", s)
	}
	text, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	if text == "all" && !percent {
		return Sample{Share: 1}, nil
	}
	if n, err := strconv.Atoi(text); err == nil && !percent {
		if n < 0 {
			return bad()
		}
		return Sample{N: n}, nil
	}
	x, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if percent {
		x /= 100
	}
	if err != nil || !(x > 0 && x <= 1) {
		return bad()
	}
	return Sample{Share: x}, nil
}

// Of is how many of n that is; a share is rounded up.
func (s Sample) Of(n int) int {
	if s.Share > 0 {
		return min(n, int(math.Ceil(s.Share*float64(n)-1e-9)))
	}
	return min(n, s.N)
}

// String is the sample as ParseSample reads it.
func (s Sample) String() string {
	if s.Share > 0 {
		return strconv.FormatFloat(s.Share*100, 'g', -1, 64) + "%"
	}
	return strconv.Itoa(s.N)
}

// draw returns k different ones of 0, …, n−1 in ascending order, every choice of them
// being as likely as any other. It depends on the seed, the root of what is audited and
// what is drawn.
func draw(seed uint64, root, what string, n, k int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	rng := random.Stream(seed, "audit "+what+" "+root)
	for i := range k {
		j := i + int(dataset.Below(rng, uint64(n-i)))
		order[i], order[j] = order[j], order[i]
	}
	return slices.Sorted(slices.Values(order[:k]))
}

// Bound is the least number of false ones among n of which a sample of k, drawn without
// putting back, would have held one with at least the given probability: with that
// confidence fewer are false where none of a sample is. Exactly: the least d with
// C(n−d, k) ≤ (1−confidence)·C(n, k). It is n+1 where no number is enough, because
// nothing was drawn.
func Bound(n, k int, confidence float64) int {
	if k <= 0 {
		return n + 1
	}
	if k >= n {
		return 1
	}
	miss := new(big.Rat).SetFloat64(1 - confidence)
	all := new(big.Int).Binomial(int64(n), int64(k))
	limit := new(big.Rat).Mul(miss, new(big.Rat).SetInt(all))
	enough := func(d int) bool {
		none := new(big.Int).Binomial(int64(n-d), int64(k))
		return new(big.Rat).SetInt(none).Cmp(limit) <= 0
	}
	low, high := 1, n-k+1 // of so many false ones every sample holds one
	for low < high {
		if mid := (low + high) / 2; enough(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
