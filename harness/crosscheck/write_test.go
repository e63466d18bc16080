package crosscheck

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A certificate is written with what is no number in it, and says the verdict.
func TestWrite(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	r := &run{cert: &Certificate{}}
	r.add(Check{Stage: Forward, Place: "conv", Operator: "Conv", Judged: ByBound, Bound: 0.5, Local: 1e-7, Expected: 1e-7, Limit: 5e-7})
	r.add(Check{Stage: Forward, Place: "pool", Operator: "MaxPool", Judged: ByBound, A: Distance{nan, inf, inf}, Bound: inf, Local: inf})
	r.verdict()
	dir := t.TempDir()
	if err := r.cert.Write(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "certificate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Certificate
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back.First == nil || back.First.Place != "pool" || !back.Checks[0].Pass || back.Checks[1].Pass {
		t.Errorf("read back: %+v", back)
	}
	page, err := os.ReadFile(filepath.Join(dir, "certificate.html"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "an error where none is possible") {
		t.Error("the page does not say what failed")
	}
}
