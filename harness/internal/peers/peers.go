// Package peers forwards to harness/peers, which the plugins' tests can import
// as well.
package peers

import (
	"testing"

	"github.com/refocus-em/refocus/harness/peers"
)

// Need is peers.Need.
func Need(t testing.TB, ok bool, reason string) { t.Helper(); peers.Need(t, ok, reason) }

// Python is peers.Python.
func Python(t testing.TB, modules ...string) string { t.Helper(); return peers.Python(t, modules...) }

// Program is peers.Program.
func Program(t testing.TB, name, hint string) string { t.Helper(); return peers.Program(t, name, hint) }
