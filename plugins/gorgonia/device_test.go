package gorgonia

import (
	"os"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/smoke"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/standin"
)

// gpuStandin is the driver of these tests: kernels.ptx is executed by an interpreter.
var gpuStandin = standin.New(standin.Options{NoRaces: os.Getenv("REFOCUS_PTX") == "long"})

func init() {
	loadDriver = func() (*driver.API, error) { return gpuStandin.API(), nil }
}

// A training on the GPU gives the processor's digest: one step of it, with every check
// of the interpreter, and twenty where there is time.
func TestGPUSmoke(t *testing.T) {
	for steps, want := range smoke.Digests {
		if steps > 1 && os.Getenv("REFOCUS_PTX") != "long" {
			continue // 40 seconds of a processor
		}
		got, err := smoke.Train(t.Context(), New("test"), backend.Options{Device: "cuda:0"}, steps, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%d steps: %s, not %s", steps, got, want)
		}
	}
}
