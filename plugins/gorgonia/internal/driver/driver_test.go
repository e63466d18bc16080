package driver

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// Every function of the table names its symbol, and no two the same; those whose
// 32-bit forms of CUDA 3 are still in the library are the later ones.
func TestSymbols(t *testing.T) {
	later := []string{"cuDeviceTotalMem", "cuDeviceGetUuid", "cuDevicePrimaryCtxRelease", "cuMemGetInfo", "cuMemAlloc", "cuMemFree",
		"cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync", "cuStreamDestroy", "cuEventDestroy"}
	seen := map[string]bool{}
	v := reflect.TypeFor[API]()
	for i := range v.NumField() {
		f := v.Field(i)
		name := f.Tag.Get("cu")
		if strings.TrimSuffix(name, "_v2") != "cu"+f.Name || seen[name] {
			t.Errorf("%s is %q", f.Name, name)
		}
		seen[name] = true
	}
	for _, name := range later {
		if !seen[name+"_v2"] {
			t.Errorf("%s is not %[1]s_v2", name)
		}
	}
}

// A machine has the driver or not; either is said, and nothing panics.
func TestLoad(t *testing.T) {
	api, err := Load()
	switch {
	case errors.Is(err, ErrNoDriver):
		t.Log(err)
	case err != nil:
		t.Fatal(err)
	default:
		var version int32
		if err := api.Check(api.DriverGetVersion(&version), "asking for the driver's version"); err != nil || version < 1000 {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestCheck(t *testing.T) {
	text := func(s string) *byte { return &append([]byte(s), 0)[0] }
	api := &API{
		GetErrorName: func(r Result, p **byte) Result {
			if r == 12345 {
				return InvalidValue
			}
			*p = text("CUDA_ERROR_ILLEGAL_ADDRESS")
			return Success
		},
		GetErrorString: func(r Result, p **byte) Result {
			*p = text("an illegal memory access was encountered")
			return Success
		},
	}
	if err := api.Check(Success, "nothing"); err != nil {
		t.Error(err)
	}
	err := api.Check(IllegalAddress, "launching %s", "relu")
	if want := "launching relu: CUDA error 700: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if !Lost(err) || Lost(api.Check(OutOfMemory, "allocating")) || Lost(nil) {
		t.Error("a lost device is not told from a full one")
	}
	if err := api.Check(12345, "x"); err == nil || !strings.Contains(err.Error(), "12345") {
		t.Errorf("%v", err)
	}
}
