// Command refocus re-runs a published machine-learning study from TOML specs
// through swappable backend plugins, compares the outcome with the published
// tables and exports the trained networks to ONNX. This folder is for "go run
// ./harness" in a checkout; "go install" takes harness/cmd/refocus, whose name the
// program gets.
package main

import (
	"os"

	"github.com/refocus-em/refocus/harness/cli"
)

func main() { os.Exit(cli.Main()) }
