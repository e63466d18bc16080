//go:build !linux

package reproduce

func processUsage(int) (seconds float64, memory int64, ok bool) { return 0, 0, false }
