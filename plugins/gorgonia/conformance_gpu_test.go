package gorgonia

import (
	"os"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/backendtest"
)

// The backend conforms on the stand-in for a GPU, whose kernels are executed by an
// interpreter. REFOCUS_PTX=long also leaves the search for races out.
func TestConformanceOnGPU(t *testing.T) {
	if os.Getenv("REFOCUS_PTX") != "long" {
		t.Skip("REFOCUS_PTX=long runs the suite on the PTX interpreter")
	}
	backendtest.Test(t, New("test"), backendtest.Options{Device: "cuda:0", Observe: func(r backendtest.Result) { t.Logf("%s: %s %s", r.Name, r.Outcome, r.Detail) }})
}
