package gorgonia

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// kernels.ptx is what kernels.cu compiles to, as far as can be told without a compiler:
// `just kernels` writes the PTX and, of all that goes into it, the digests.
func TestKernelsAreCompiled(t *testing.T) {
	recorded, err := os.ReadFile("cuda/kernels.sha256")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(recorded)) {
		want, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		file, err := os.ReadFile("cuda/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(file); hex.EncodeToString(sum[:]) != want {
			t.Errorf("cuda/%s has changed since kernels.ptx was compiled: run `just kernels`", name)
		}
		seen++
	}
	if seen != 3 {
		t.Errorf("kernels.sha256 names %d files", seen)
	}
}
