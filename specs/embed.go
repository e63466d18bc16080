// Package specs holds the specifications of the study's series, so that a
// refocus binary can reproduce them from any directory.
package specs

import "embed"

// FS holds the *.toml files of this folder.
//
//go:embed *.toml
var FS embed.FS
