package smoke

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

// elsewhere marks the processes that these tests start.
const elsewhere = "REFOCUS_SMOKE_ELSEWHERE"

// TestHere is also what TestElsewhere runs elsewhere.
func TestHere(t *testing.T) {
	for _, threads := range []int{1, 3} {
		for steps, want := range Digests {
			got, err := Train(t.Context(), gorgonia.New("test"), backend.Options{Device: "cpu", Threads: threads}, steps, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("%s/%s, %d steps with %d threads: %s, not %s", runtime.GOOS, runtime.GOARCH, steps, threads, got, want)
			}
		}
		if os.Getenv(elsewhere) != "" {
			break // once is enough where it is slow
		}
	}
}

// TestGPU trains on the machine's first GPU, where there is one. The tests of package
// gorgonia do so everywhere, on an interpreter of the kernels.
func TestGPU(t *testing.T) {
	b := gorgonia.New("test")
	d, err := b.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(d.Devices, func(d backend.Device) bool { return d.Kind == "cuda" })
	if i < 0 {
		t.Skip(strings.Join(d.Notes, "; "))
	}
	t.Log(d.Devices[i].Info, d.Devices[i].Driver)
	for steps, want := range Digests {
		got, err := Train(t.Context(), b, backend.Options{Device: d.Devices[i].Name}, steps, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%d steps: %s, not the processor's %s", steps, got, want)
		}
	}
}

// TestElsewhere runs TestHere with the portable kernels, and built for a processor whose
// compiler fuses products and sums where it may.
func TestElsewhere(t *testing.T) {
	if os.Getenv(elsewhere) != "" {
		t.Skip("this is elsewhere")
	}
	run := func(t *testing.T, env []string, command ...string) {
		t.Helper()
		c := exec.Command(command[0], append(command[1:], "-test.run=^TestHere$", "-test.v")...)
		c.Env = append(append(os.Environ(), elsewhere+"=1"), env...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	t.Run("portable", func(t *testing.T) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		run(t, []string{"REFOCUS_ISA=portable"}, exe)
	})
	t.Run("arm64", func(t *testing.T) {
		tool := peers.Program(t, "go", "needed to build for other targets")
		var command []string
		if runtime.GOOS != "linux" || runtime.GOARCH != "arm64" {
			command = append(command, peers.Program(t, "qemu-aarch64-static", "Debian: qemu-user-static"))
		}
		bin := filepath.Join(t.TempDir(), "smoke.test")
		build := exec.Command(tool, "test", "-tags", "static", "-c", "-o", bin, ".") // which needs no libraries of that processor
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building: %v\n%s", err, out)
		}
		run(t, nil, append(command, bin)...)
	})
}
