//go:build linux && cgo && cuda

package powercap

import (
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
)

// server is NVIDIA's mock of a machine, with power limits that can be set.
func server(t *testing.T, permitted bool) (*dgxa100.Server, []uint32) {
	t.Helper()
	s := dgxa100.New()
	limits := make([]uint32, 8)
	for i := range limits {
		limits[i] = 400_000
		d, r := s.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			t.Fatal(nvml.ErrorString(r))
		}
		m := &d.(*dgxa100.Device).Device
		m.GetPowerManagementLimitFunc = func() (uint32, nvml.Return) { return limits[i], nvml.SUCCESS }
		m.GetPowerManagementLimitConstraintsFunc = func() (uint32, uint32, nvml.Return) { return 100_000, 400_000, nvml.SUCCESS }
		m.SetPowerManagementLimitFunc = func(mW uint32) nvml.Return {
			if !permitted {
				return nvml.ERROR_NO_PERMISSION
			}
			limits[i] = mW
			return nvml.SUCCESS
		}
	}
	before := library
	library = s
	t.Cleanup(func() { library = before })
	return s, limits
}

func TestApplyAndRestore(t *testing.T) {
	_, limits := server(t, true)
	note, restore := Apply(250)
	for i, mW := range limits {
		if mW != 250_000 {
			t.Errorf("GPU %d is at %d mW", i, mW)
		}
	}
	if strings.Count(note, "applied to GPU") != 8 || !strings.Contains(note, "before it 400 W") {
		t.Errorf("note %q", note)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	for i, mW := range limits {
		if mW != 400_000 {
			t.Errorf("GPU %d was left at %d mW", i, mW)
		}
	}
}

func TestNoPermission(t *testing.T) {
	_, limits := server(t, false)
	note, restore := Apply(250)
	if !strings.Contains(note, "not applied to GPU 0") || !strings.Contains(note, "needs root") {
		t.Errorf("note %q", note)
	}
	if err := restore(); err != nil || limits[0] != 400_000 {
		t.Errorf("restore: %v, limit %d", err, limits[0])
	}
}

func TestOutOfBounds(t *testing.T) {
	server(t, true)
	if note, _ := Apply(90); !strings.Contains(note, "it allows 100 to 400 W") {
		t.Errorf("note %q", note)
	}
}

func TestNoDriver(t *testing.T) {
	before := library
	library = &mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}
	t.Cleanup(func() { library = before })
	note, restore := Apply(250)
	if !strings.HasPrefix(note, "power cap of 250 W not applied: NVIDIA's management library does not start") {
		t.Errorf("note %q", note)
	}
	if err := restore(); err != nil {
		t.Error(err)
	}
}
