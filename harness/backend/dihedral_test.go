package backend_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// The numbering of symmetries is a contract with every backend, in any language.
func TestDihedralIsNumPys(t *testing.T) {
	python := peers.Python(t, "numpy")
	const n = 4
	code := fmt.Sprintf("import numpy\na = numpy.arange(%d).reshape(%d, %d)\n", n*n, n, n) +
		"for op in range(8):\n  print(*numpy.rot90(a.T if op & 4 else a, op & 3).ravel())\n"
	out, err := exec.Command(python, "-c", code).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	seen := map[string]bool{}
	for op := range uint8(8) {
		var row []string
		for y := range n {
			for x := range n {
				sy, sx := backend.Dihedral(op, n, y, x)
				row = append(row, fmt.Sprint(sy*n+sx))
			}
		}
		line := strings.Join(row, " ")
		seen[line] = true
		got.WriteString(line + "\n")
	}
	if got.String() != string(out) {
		t.Errorf("backend.Dihedral gives\n%snumpy gives\n%s", got.String(), out)
	}
	if len(seen) != 8 {
		t.Errorf("%d different symmetries, want 8", len(seen))
	}
}
