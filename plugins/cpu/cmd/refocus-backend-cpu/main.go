// Command refocus-backend-cpu serves the CPU backend as a plugin of its own.
// The harness has the same backend built in; this executable is for pinning or
// replacing it independently of the harness.
package main

import (
	"runtime/debug"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/plugins/cpu"
)

func main() {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	plugin.Serve(cpu.New(version))
}
