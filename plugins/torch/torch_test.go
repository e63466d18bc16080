// Package torch tests the PyTorch plugin of this folder, which is written in Python,
// as refocus sees it.
package torch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// interpreter is a Python with all that the plugin needs: Debian's packages, and what
// debian.lock adds to them, or PyPI's.
func interpreter(t *testing.T) string {
	t.Helper()
	return peers.Python(t, "torch", "numpy", "onnx", "cryptography", "grpc", "grpc_health")
}

// launch starts the plugin from this folder's sources.
func launch(t *testing.T) *plugin.Client {
	t.Helper()
	python := interpreter(t)
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	c, err := plugin.Launch(t.Context(), plugin.Spec{
		Name: "torch", Path: python, Args: []string{"-c", "from refocus_torch.server import main; main()"},
		Env: []string{"PYTHONPATH=" + here, "PYTHONDONTWRITEBYTECODE=1",
			"OMP_WAIT_POLICY=PASSIVE"}, // on a busy machine, threads that spin take a core from those they wait for
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The conformance suite, in every precision, on the CPU.
func TestConformance(t *testing.T) {
	c := launch(t)
	d, err := c.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(d.Precisions, " "), strings.Join(backend.Precisions, " "); got != want {
		t.Errorf("precisions %s, want %s", got, want)
	}
	backendtest.Test(t, c, backendtest.Options{Device: "cpu"})
}

// A session tells what it takes before it is opened, and refuses as Open does.
func TestMemory(t *testing.T) {
	c := launch(t)
	g, err := nn.UNet(nn.UNetOptions{Width: 64, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	need := func(o backend.Options, r backend.MemoryRequest) int64 {
		t.Helper()
		n, err := c.Memory(t.Context(), g, o, r)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	step := backend.MemoryRequest{Batch: 16, Height: 512, Width: 512, Training: true}
	pass := step
	pass.Training = false
	o := backend.Options{Device: "cpu"}
	a, b := need(o, step), need(o, pass)
	// The published network: 57 MB of weights, with gradients and moments four times.
	if weights := int64(4 * 4 * 14_147_650); b < weights || a < 4*b || a > 64<<30 {
		t.Errorf("a step takes %d bytes, a pass %d", a, b)
	}
	if _, err := c.Memory(t.Context(), g, backend.Options{Device: "abacus"}, step); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("an unknown device: %v", err)
	}
}

// The package's own tests.
func TestPython(t *testing.T) {
	cmd := exec.Command(interpreter(t), "-m", "unittest", "discover", "tests")
	cmd.Env = append(os.Environ(), "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
