package gorgonia

import (
	"errors"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/smoke"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/standin"
)

// onStandin makes the plugin open a stand-in of its own for the test.
func onStandin(t *testing.T, o standin.Options) *standin.Driver {
	t.Helper()
	if o.Misuse == nil {
		o.Misuse = func(err error) { t.Error(err) }
	}
	if _, err := gpus(); err != nil { // which are looked for once, and are the same ones
		t.Fatal(err)
	}
	d := standin.New(o)
	api := d.API()
	if r := api.Init(0); r != driver.Success {
		t.Fatalf("result %d", r)
	}
	before := loadDriver
	loadDriver = func() (*driver.API, error) { return api, nil }
	t.Cleanup(func() { loadDriver = before })
	return d
}

// A call of the driver that fails, whichever, comes out as an error in the driver's words,
// and nothing that was had before is kept.
func TestGPUCallFails(t *testing.T) {
	for _, c := range []struct {
		call string
		nth  int
	}{{"cuDeviceGet", 1}, {"cuDevicePrimaryCtxRetain", 1}, {"cuCtxSetCurrent", 1}, {"cuStreamCreate", 1}, {"cuModuleLoadDataEx", 1}, {"cuModuleGetFunction", 1},
		{"cuModuleGetFunction", 5}, {"cuMemAlloc", 1}, {"cuMemAlloc", 7}, {"cuMemHostAlloc", 1}, {"cuMemcpyHtoDAsync", 1}, {"cuMemcpyHtoDAsync", 9},
		{"cuLaunchKernel", 1}, {"cuLaunchKernel", 12}} {
		n := 0
		d := onStandin(t, standin.Options{NoRaces: true, Before: func(call string) driver.Result {
			if call == c.call {
				if n++; n == c.nth {
					return driver.OutOfMemory
				}
			}
			return driver.Success
		}})
		_, err := smoke.Train(t.Context(), New("test"), backend.Options{Device: "cuda:0"}, 1, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "CUDA_ERROR_OUT_OF_MEMORY") || errors.Is(err, backend.ErrDeviceLost) {
			t.Errorf("%s fails at call %d: %v", c.call, c.nth, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s fails at call %d: %v", c.call, c.nth, err)
		}
	}
}

// A device that is lost, wherever it is noticed, ends the process: the error says so.
func TestGPULost(t *testing.T) {
	for call, result := range map[string]driver.Result{"cuLaunchKernel": driver.IllegalAddress, "cuStreamSynchronize": 214, "cuMemcpyHtoDAsync": driver.LaunchFailed, "cuMemAlloc": 999} {
		n := 0
		d := onStandin(t, standin.Options{NoRaces: true, Before: func(c string) driver.Result {
			if c == call {
				if n++; n == 2 {
					return result
				}
			}
			return driver.Success
		}})
		_, err := smoke.Train(t.Context(), New("test"), backend.Options{Device: "cuda:0"}, 1, t.TempDir())
		if !errors.Is(err, backend.ErrDeviceLost) {
			t.Errorf("%s with result %d: %v", call, result, err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("%s with result %d: %v", call, result, err)
		}
	}
}

// A GPU that is too small says so, and is not lost.
func TestGPUOutOfMemory(t *testing.T) {
	d := onStandin(t, standin.Options{Memory: 1 << 20})
	_, err := smoke.Train(t.Context(), New("test"), backend.Options{Device: "cuda:0"}, 1, t.TempDir())
	if err == nil || errors.Is(err, backend.ErrDeviceLost) || !strings.Contains(err.Error(), "CUDA_ERROR_OUT_OF_MEMORY") {
		t.Errorf("%v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A step waits for the GPU once, copies through pinned memory alone, and a session leaves
// nothing behind.
func TestGPUTraffic(t *testing.T) {
	var waits []int
	for steps := 1; steps <= 2; steps++ {
		d := onStandin(t, standin.Options{NoRaces: true})
		if _, err := smoke.Train(t.Context(), New("test"), backend.Options{Device: "cuda:0"}, steps, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		waits = append(waits, s.Waits)
		if s.Pageable > 0 {
			t.Errorf("%d copies of memory that is not pinned", s.Pageable)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if waits[1]-waits[0] != 1 {
		t.Errorf("the GPU was waited for %d times in a session of one step, %d times in one of two", waits[0], waits[1])
	}
}
