package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/report"
)

func TestCompare(t *testing.T) {
	out := t.TempDir()
	_, errs, code := output(t, "compare", "testdata/tiny.toml", "--out", out)
	if code != cli.ExitFailed || !strings.Contains(errs, "refocus reproduce") {
		t.Errorf("an empty store: exit %d\n%s", code, errs)
	}

	out = reproduceTiny(t)
	said, errs, code := output(t, "compare", "testdata/tiny.toml", "--out", out)
	if code != 0 || !strings.Contains(said, "rank correlation") || !strings.Contains(said, "finding") {
		t.Errorf("exit %d\n%s%s", code, said, errs)
	}
	said, errs, code = output(t, "compare", "testdata/tiny.toml", "--json", "--out", out)
	var c report.Comparison
	if err := json.Unmarshal([]byte(said), &c); err != nil || code != 0 || c.Study != "tiny" || len(c.Findings) != 13 {
		t.Errorf("exit %d, %v: %+v\n%s", code, err, c, errs)
	}
}
