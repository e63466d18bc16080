//go:build linux && cgo && cuda

package powercap

import (
	"errors"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// library is replaced by NVIDIA's mock in tests.
var library nvml.Interface = nvml.New()

func open() (gpus []gpu, done func(), err error) {
	if r := library.Init(); r != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("NVIDIA's management library does not start: %s", nvml.ErrorString(r))
	}
	done = func() { library.Shutdown() }
	n, r := library.DeviceGetCount()
	if r != nvml.SUCCESS {
		done()
		return nil, nil, fmt.Errorf("counting GPUs: %s", nvml.ErrorString(r))
	}
	for i := range n {
		d, r := library.DeviceGetHandleByIndex(i)
		if r != nvml.SUCCESS {
			done()
			return nil, nil, fmt.Errorf("opening GPU %d: %s", i, nvml.ErrorString(r))
		}
		gpus = append(gpus, device{d})
	}
	return gpus, done, nil
}

type device struct{ nvml.Device }

func (d device) name() string {
	if n, r := d.GetName(); r == nvml.SUCCESS {
		return n
	}
	return "unnamed"
}

func (d device) limit() (uint32, error) {
	mW, r := d.GetPowerManagementLimit()
	return mW, result(r)
}

func (d device) bounds() (uint32, uint32, error) {
	low, high, r := d.GetPowerManagementLimitConstraints()
	return low, high, result(r)
}

func (d device) setLimit(mW uint32) error { return result(d.SetPowerManagementLimit(mW)) }

func result(r nvml.Return) error {
	switch r {
	case nvml.SUCCESS:
		return nil
	case nvml.ERROR_NO_PERMISSION:
		return errors.New("no permission (setting a power limit needs root)")
	}
	return errors.New(nvml.ErrorString(r))
}
