// Command refocus-backend-gorgonia is the Gorgonia backend as a plugin of refocus.
package main

import (
	"runtime/debug"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

func main() {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	plugin.Serve(gorgonia.New(version))
}
