//go:build (linux && !static) || windows

package driver

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/ebitengine/purego"
)

// Load loads the driver's library, once per process, and looks its functions up. It
// calls none of them. Without the library the error is ErrNoDriver; a library that
// lacks a function, as those of old drivers do, is refused by the function's name.
var Load = sync.OnceValues(func() (*API, error) {
	lib, err := open(library)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	api := new(API)
	v := reflect.ValueOf(api).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("cu")
		address, err := symbol(lib, name)
		if err != nil {
			return nil, fmt.Errorf("%s has no function %s, which drivers for CUDA 11.8 and later have: %w", library, name, err)
		}
		purego.RegisterFunc(v.Field(i).Addr().Interface(), address)
	}
	return api, nil
})
