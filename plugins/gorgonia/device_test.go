package gorgonia

import (
	"errors"
	"os"
	"slices"
	"strings"
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

// The processor is the first device, and so the default; a GPU is told by what is its own
// in every process, and every operator runs on it.
func TestGPUDescription(t *testing.T) {
	d, err := New("test").Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Devices) != 2 || d.Devices[0].Name != "cpu" || d.Devices[1].Name != "cuda:0" || d.Devices[1].Kind != "cuda" ||
		!strings.HasPrefix(d.Devices[1].ID, "GPU-") || d.Devices[1].Driver != "CUDA 11.8" || d.Devices[1].Memory == 0 {
		t.Errorf("devices %+v", d.Devices)
	}
	on := map[string]int{}
	for _, o := range d.Operators {
		on[o.Device]++
	}
	if on["cpu"] != len(operators) || on["cuda"] != len(operators) {
		t.Errorf("operators on %v", on)
	}
	if !slices.ContainsFunc(d.Notes, func(s string) bool { return strings.Contains(s, "not yet run on a GPU") }) {
		t.Errorf("notes %q", d.Notes)
	}
	_, err = New("test").Open(t.Context(), unet(t, 4), backend.Options{Device: "cuda:0", Precision: backend.Mixed})
	if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "mixed") {
		t.Errorf("mixed precision: %v", err)
	}
}
