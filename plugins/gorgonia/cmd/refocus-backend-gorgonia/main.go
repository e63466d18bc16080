// Command refocus-backend-gorgonia is the Gorgonia backend as a plugin of refocus.
package main

import (
	"runtime/debug"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

func main() {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	backend.Serve(gorgonia.New(version))
}
