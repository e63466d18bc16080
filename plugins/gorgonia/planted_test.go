package gorgonia

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

// The checks that let nothing wrong pass are themselves tested: faults are planted in the
// kernels' PTX, and TestOperatorsOnGPU's comparison has to find each.

// caseOf is the operators' case that a kernel belongs to.
var caseOf = map[string]string{
	"add": "add", "relu": "relu", "relu_input": "relu", "copy_rows": "concat", "upsample": "upsample", "upsample_input": "upsample",
	"max_pool": "pool", "max_pool_input": "pool", "sum": "norm", "sum_squares": "norm", "sum_products": "norm", "norm_mean": "norm",
	"norm_variance": "norm", "norm_affine": "norm", "norm_sums": "norm", "norm_combination": "norm", "norm_input": "norm", "norm_running": "norm",
	"norm_inference": "norm", "softmax": "softmax", "softmax_input": "softmax", "cross_entropy": "loss", "cross_entropy_input": "loss", "adam": "adam",
	"pack": "conv_32", "pack_turned": "conv_32", "conv_32": "conv_32", "conv_64": "conv_64", "conv_128": "conv_128",
	"conv_weights_32": "conv_32", "conv_weights_64": "conv_64", "add_chunks": "conv_32", "channel_sums": "conv_32",
}

// plant changes a kernel's text, between its name and the end, by a function.
func plant(t *testing.T, kernel string, change func(lines []string) []string) string {
	t.Helper()
	at := strings.Index(kernelsPTX, ".visible .entry "+kernel+"(")
	if at < 0 {
		t.Fatalf("there is no kernel %s", kernel)
	}
	length := strings.Index(kernelsPTX[at:], "\n}\n")
	lines := strings.Split(kernelsPTX[at:at+length], "\n")
	changed := change(slices.Clone(lines))
	if slices.Equal(lines, changed) {
		t.Fatalf("nothing was planted in %s", kernel)
	}
	return kernelsPTX[:at] + strings.Join(changed, "\n") + kernelsPTX[at+length:]
}

// replace replaces what a regular expression matches in the nth line that it matches,
// counted from 1, or from the end for negative numbers.
func replace(n int, pattern, by string) func(lines []string) []string {
	re := regexp.MustCompile(pattern)
	return func(lines []string) []string {
		var at []int
		for i, line := range lines {
			if re.MatchString(line) {
				at = append(at, i)
			}
		}
		i := n - 1
		if n < 0 {
			i = len(at) + n
		}
		if i >= 0 && i < len(at) {
			lines[at[i]] = re.ReplaceAllString(lines[at[i]], by)
		}
		return lines
	}
}

// kinds of what finds a fault.
const (
	bits    = "bits" // the result differs from the processor's
	refused = "refused"
)

// found says what found a fault: a kind of ptx.Fault, bits, or refused; "" for nothing.
func found(err error) string {
	var f *ptx.Fault
	var e *ptx.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.Kind.String()
	case errors.As(err, &e):
		return refused
	case strings.Contains(err.Error(), "nobody has written"):
		return ptx.Undefined.String()
	}
	return bits
}

// seek runs a kernel's case on a text.
func seek(t *testing.T, kernel, text string) error {
	t.Helper()
	i := slices.IndexFunc(operatorCases, func(c struct {
		name string
		run  func(b *operatorBench)
	}) bool {
		return c.name == caseOf[kernel]
	})
	if i < 0 {
		t.Fatalf("kernel %s belongs to no case", kernel)
	}
	return operator(text, rand.New(rand.NewPCG(1, 2)), operatorCases[i].run)
}

// Faults of every kind, each in the place where it would hurt.
func TestPlantedFaults(t *testing.T) {
	const op = `([^,]+), ([^,]+), ([^;]+);`
	for _, c := range []struct {
		name, kernel string
		change       func(lines []string) []string
		by           string
	}{
		{"operands of a difference swapped", "adam", replace(1, `sub\.rn\.f32 `+op, "sub.rn.f32 $1, $3, $2;"), bits},
		{"operands of a quotient swapped", "norm_mean", replace(1, `div\.rn\.f64 `+op, "div.rn.f64 $1, $3, $2;"), bits},
		{"operands of a comparison swapped", "max_pool", replace(1, `setp\.gt\.f32 `+op, "setp.gt.f32 $1, $3, $2;"), bits},
		{"a multiply-add contracted", "norm_affine", contract(1), bits},
		{"a multiply-add taken apart", "conv_32", replace(3, `fma\.rn\.f32 ([^,]+), ([^,]+), ([^,]+), ([^;]+);`, "{ .reg .f32 %t; mul.rn.f32 %t, $2, $3; add.rn.f32 $1, %t, $4; }"), bits},
		{"a square rounded before it is added", "sum_squares", replace(1, `fma\.rn\.f32 ([^,]+), ([^,]+), ([^,]+), ([^;]+);`, "{ .reg .f32 %t; mul.rn.f32 %t, $2, $3; add.rn.f32 $1, %t, $4; }"), bits},
		{"a sum rounded to zero", "conv_64", replace(5, `fma\.rn\.f32`, "fma.rz.f32"), bits},
		{"a root rounded down", "adam", replace(1, `sqrt\.rn\.f32`, "sqrt.rm.f32"), bits},
		{"subnormal numbers flushed", "conv_32", replace(1, `fma\.rn\.f32`, "fma.rn.ftz.f32"), bits},
		{"a conversion rounded up", "norm_sums", replace(1, `cvt\.rn\.f32\.f64`, "cvt.rp.f32.f64"), bits},
		{"an approximate quotient", "adam", replace(1, `div\.rn\.f32`, "div.approx.f32"), refused},
		{"a product that may be contracted", "norm_input", replace(1, `mul\.rn\.f32`, "mul.f32"), refused},
		{"a bound off by one", "norm_running", replace(1, `setp\.ge\.s32`, "setp.gt.s32"), ptx.Bounds.String()},
		{"a bound off by one, the other way", "adam", replace(1, `setp\.ge\.s32 `+op, "add.s32 $2, $2, 1; setp.ge.s32 $1, $2, $3; add.s32 $2, $2, -1;"), bits},
		{"a stride of 8 bytes", "upsample_input", replace(1, `mul\.wide\.u32\s+([^,]+), ([^,]+), 4;`, "mul.wide.u32 $1, $2, 8;"), ptx.Bounds.String()},
		{"an address of an odd number", "add", replace(1, `ld\.global\.nc\.v4\.f32 (.*), \[([^\]+]+)\];`, "ld.global.nc.v4.f32 $1, [$2+4];"), ptx.Alignment.String()},
		{"padding taken from the neighbouring row", "conv_32", replace(1, `setp\.ge\.u32 `+op, "setp.gt.s32 $1, 0, 1;"), ptx.Bounds.String()},
		{"padding that is not zero", "conv_32", replace(2, `mov\.f32\s+([^,]+), 0f00000000;`, "mov.f32 $1, 0f3F800000;"), bits},
		{"pixels beyond the chunk that are not zero", "conv_weights_32", replace(1, `mov\.f32\s+([^,]+), 0f00000000;`, "mov.f32 $1, 0f3F800000;"), bits},
		{"a sum that does not begin at zero", "sum", replace(1, `mov\.f32\s+([^,]+), 0f00000000;`, "mov.f32 $1, 0f3F800000;"), bits},
		{"a result not stored", "norm_input", drop(-1, `st\.global`), ptx.Undefined.String()},
		{"shared memory not filled", "conv_64", drop(1, `st\.shared\.v4`), ptx.Undefined.String()},
		{"lanes folded in another order", "sum", swap(`mov\.u32\s+%r\d+, (16|8);`), bits},
		{"lanes folded across", "channel_sums", replace(1, `mov\.u32\s+(%r\d+), 4;`, "mov.u32 $1, 3;"), bits},
		{"a constant of the exponential", "cross_entropy", replace(1, `0d3FE62E42FEE00000`, "0d3FE62E42FED00000"), bits},
		{"a shuffle that others do not reach", "sum_products", replace(1, `shfl\.sync.*`, "{ .reg .pred %q; setp.lt.u32 %q, %laneid, 16; @%q $0 }"), ptx.Divergence.String()},
		{"what the launch writes read as constant", "adam", replace(2, `ld\.global\.f32`, "ld.global.nc.f32"), ptx.Race.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := seek(t, c.kernel, plant(t, c.kernel, c.change))
			by := found(err)
			t.Logf("%s: %.300v", by, err)
			if by == "" || c.by != "" && by != c.by {
				t.Errorf("found by %q, not %q: %v", by, c.by, err)
			}
		})
	}
}

// drop removes the nth line that a regular expression matches; negative numbers count from
// the end.
func drop(n int, pattern string) func(lines []string) []string {
	return replace(n, ".*"+pattern+".*", "")
}

// swap exchanges the first matches' groups of the first two lines that differ in them.
func swap(pattern string) func(lines []string) []string {
	re := regexp.MustCompile(pattern)
	return func(lines []string) []string {
		first, value := -1, ""
		for i, line := range lines {
			m := re.FindStringSubmatchIndex(line)
			if m == nil {
				continue
			}
			v := line[m[2]:m[3]]
			if first < 0 {
				first, value = i, v
				continue
			}
			if v != value {
				f := re.FindStringSubmatchIndex(lines[first])
				lines[i] = line[:m[2]] + value + line[m[3]:]
				lines[first] = lines[first][:f[2]] + v + lines[first][f[3]:]
				return lines
			}
		}
		return lines
	}
}

// contract makes the nth pair of a product and the sum that it enters a fused
// multiply-add, as a compiler would.
func contract(n int) func(lines []string) []string {
	return func(lines []string) []string {
		if pairs := products(lines); n <= len(pairs) {
			p := pairs[n-1]
			lines[p.sum] = p.fused
		}
		return lines
	}
}

// pair is a product, and the line of the sum that it enters.
type pair struct {
	sum   int
	fused string
}

var (
	productLine = regexp.MustCompile(`^\s*mul\.rn\.f32\s+(%f\d+), (\S+), (\S+);`)
	sumLine     = regexp.MustCompile(`^\s*add\.rn\.f32\s+(%f\d+), (\S+), (\S+);`)
)

// products finds the products in single precision that enter a sum.
func products(lines []string) (pairs []pair) {
	for i, line := range lines {
		m := productLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for j := i + 1; j < len(lines); j++ {
			a := sumLine.FindStringSubmatch(lines[j])
			if a == nil || a[2] != m[1] && a[3] != m[1] {
				continue
			}
			rest := a[3]
			if rest == m[1] {
				rest = a[2]
			}
			pairs = append(pairs, pair{j, fmt.Sprintf("\tfma.rn.f32 %s, %s, %s, %s;", a[1], m[2], m[3], rest)})
			break
		}
	}
	return pairs
}

// In every kernel: every product that enters a sum, contracted; every barrier, missing;
// every kind of rounding, another one.
func TestSystematicFaults(t *testing.T) {
	text := func(kernel string) (lines []string) {
		plant(t, kernel, func(l []string) []string { lines = l; return append(l, "") })
		return lines
	}
	m, err := ptx.Load(kernelsPTX)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	check := func(kernel, what, text string) {
		by := found(seek(t, kernel, text))
		count[what+" found by "+by]++
		if by == "" {
			t.Errorf("%s: %s was not found", kernel, what)
		}
	}
	for _, kernel := range m.Kernels() {
		if caseOf[kernel] == "" {
			t.Errorf("kernel %s belongs to no case", kernel)
			continue
		}
		for n := range products(text(kernel)) {
			check(kernel, "a contraction", plant(t, kernel, contract(n+1)))
		}
		barriers := 0
		for _, line := range text(kernel) {
			if strings.Contains(line, "bar.sync") {
				barriers++
			}
		}
		for n := range barriers {
			if strings.HasPrefix(kernel, "conv_weights") && n == barriers-1 {
				continue // after it nothing is shared any more
			}
			check(kernel, "a missing barrier", plant(t, kernel, drop(n+1, `bar\.sync`)))
		}
		for _, op := range []string{"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32", "sqrt.rn.f32", "fma.rn.f32", "cvt.rn.f32.f64"} {
			whole := strings.Join(text(kernel), "\n")
			if planted := strings.ReplaceAll(whole, op+" ", strings.Replace(op, ".rn", ".rz", 1)+" "); planted != whole {
				check(kernel, op+" rounded to zero", plant(t, kernel, func([]string) []string { return strings.Split(planted, "\n") }))
			}
		}
	}
	var table []string
	for what, n := range count {
		table = append(table, fmt.Sprintf("%4d %s", n, what))
	}
	slices.Sort(table)
	t.Log("\n" + strings.Join(table, "\n"))
}
