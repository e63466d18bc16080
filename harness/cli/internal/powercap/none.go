//go:build !linux || !cgo || !cuda

package powercap

import "errors"

func open() ([]gpu, func(), error) {
	return nil, nil, errors.New("this build of refocus has no access to NVIDIA's management library (build it on Linux with cgo and -tags cuda)")
}
