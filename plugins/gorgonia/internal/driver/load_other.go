//go:build !linux && !windows

package driver

// Load says that NVIDIA has no driver for this system.
func Load() (*API, error) { return nil, ErrNoDriver }
