package smoke

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

func check(t *testing.T, name string, threads int) {
	t.Helper()
	got, err := Train(name, threads)
	if err != nil {
		t.Fatal(err)
	}
	if want := Digests[name]; got != want {
		t.Errorf("%s/%s with %d threads gives %s, not %q", runtime.GOOS, runtime.GOARCH, threads, got, want)
	}
}

// TestHere is also what TestElsewhere runs elsewhere.
func TestHere(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(Digests)) {
		t.Run(name, func(t *testing.T) { check(t, name, 2) })
	}
}

func TestThreads(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(Digests)) {
		for _, threads := range []int{1, 3, 7} {
			t.Run(fmt.Sprintf("%s-%d", name, threads), func(t *testing.T) { check(t, name, threads) })
		}
	}
}

func TestInstructionSets(t *testing.T) {
	for _, isa := range []string{"portable", "avx2", "avx512"} {
		t.Run(isa, func(t *testing.T) {
			t.Setenv("REFOCUS_ISA", isa)
			s, err := kernel.Select("")
			if err != nil {
				t.Skip(err)
			}
			if s.Name != isa {
				t.Fatalf("the kernels are %s", s.Name)
			}
			for _, name := range []string{"fast", "fast-mixed"} {
				t.Run(name, func(t *testing.T) { check(t, name, 2) })
			}
		})
	}
}

// TestElsewhere builds this package's tests for other targets and runs TestHere
// there.
func TestElsewhere(t *testing.T) {
	if os.Getenv("REFOCUS_SMOKE_ELSEWHERE") != "" {
		t.Skip("this is elsewhere")
	}
	goTool := peers.Program(t, "go", "needed to build for other targets")
	for _, c := range []struct {
		name string
		env  []string
		run  func(t *testing.T) []string // the command before the test binary
	}{
		{"amd64-v1", []string{"GOARCH=amd64", "GOAMD64=v1"}, native("amd64")},
		{"amd64-v3", []string{"GOARCH=amd64", "GOAMD64=v3"}, native("amd64")},
		{"arm64", []string{"GOARCH=arm64"}, func(t *testing.T) []string {
			if runtime.GOARCH == "arm64" {
				return nil
			}
			return []string{peers.Program(t, "qemu-aarch64-static", "Debian: qemu-user-static")}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := c.run(t)
			bin := filepath.Join(t.TempDir(), "smoke.test")
			build := exec.Command(goTool, "test", "-c", "-o", bin, ".")
			build.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), c.env...)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("building: %v\n%s", err, out)
			}
			command = append(command, bin, "-test.run=^TestHere$", "-test.v")
			run := exec.Command(command[0], command[1:]...)
			run.Env = append(os.Environ(), "REFOCUS_SMOKE_ELSEWHERE=1")
			out, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for name := range Digests {
				if !strings.Contains(string(out), "--- PASS: TestHere/"+name) {
					t.Errorf("%s did not run:\n%s", name, out)
				}
			}
		})
	}
}

// native skips where a target's binaries do not run.
func native(arch string) func(t *testing.T) []string {
	return func(t *testing.T) []string {
		if runtime.GOOS != "linux" || runtime.GOARCH != arch {
			t.Skipf("%s/%s does not run binaries of linux/%s", runtime.GOOS, runtime.GOARCH, arch)
		}
		return nil
	}
}
