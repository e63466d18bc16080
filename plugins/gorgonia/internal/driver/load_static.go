//go:build linux && static

package driver

import "errors"

// Load refuses: what loads a library needs the C library's loader, and a container
// with nothing in it has none. Such a build is for there.
func Load() (*API, error) { return nil, errors.New("this build loads no libraries") }
