// Command refocus is the program under the name that "go install" gives it; see
// harness.
package main

import (
	"os"

	"github.com/refocus-em/refocus/harness/cli"
)

func main() { os.Exit(cli.Main()) }
