//go:build !unix

package fast

import "time"

// cpuTime is not known here; benchmarks report the clock alone.
func cpuTime() time.Duration { return 0 }
