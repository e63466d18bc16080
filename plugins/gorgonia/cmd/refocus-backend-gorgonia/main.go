// Command refocus-backend-gorgonia is the Gorgonia backend as a plugin of refocus.
package main

import (
	"runtime/debug"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

// version is set by the linker in what harness/release builds.
var version string

func main() {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		version = info.Main.Version
	}
	plugin.Serve(gorgonia.New(version))
}
