package pickle

import (
	"bytes"
	"math"
	"os/exec"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// TestPandas loads a table in Python by the two ways that there are.
func TestPandas(t *testing.T) {
	b, err := DataFrame(Dict{
		{"n", []int{1, -2, math.MaxInt32 + 1}},
		{"loss", []float64{0.1, math.NaN(), -1e-300}},
		{"Å – name", []string{"none", "", "é"}},
		{"history", []Dict{{{"train", []float64{0.5, 0.25}}}, {{"train", []float64{}}}, {}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(peers.Python(t, "pandas"), "-c", `
import io, pickle, sys
import pandas as pd
b = sys.stdin.buffer.read()
for d in pickle.loads(b), pd.read_pickle(io.BytesIO(b)):
    assert list(d.columns) == ["n", "loss", "Å – name", "history"], d.columns
    assert [str(t) for t in d.dtypes] == ["int64", "float64", "object", "object"], d.dtypes
    assert isinstance(d.index, pd.RangeIndex)
    assert list(d["n"]) == [1, -2, 2**31]
    assert d["loss"][0] == 0.1 and d["loss"].isna()[1] and d["loss"][2] == -1e-300
    assert list(d["Å – name"]) == ["none", "", "é"]
    assert list(d["history"]) == [{"train": [0.5, 0.25]}, {"train": []}, {}]
print("ok")`)
	cmd.Stdin = bytes.NewReader(b)
	cmd.Env = append(cmd.Environ(), "PYTHONIOENCODING=utf-8")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "ok") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRefuses(t *testing.T) {
	if _, err := DataFrame(Dict{{"x", []bool{true}}}); err == nil || !strings.Contains(err.Error(), "x: a []bool") {
		t.Errorf("the error is %v", err)
	}
}
