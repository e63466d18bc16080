// Refocus-backend-template is a complete backend plugin to start a new one
// from: plain loops on one thread, float64 arithmetic on float32 weights. It
// passes the conformance suite and is far slower than a real one.
// plugins/README.md says how to turn it into yours.
package main

import (
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

func main() { plugin.Serve(engine.NewBackend(describe, compile)) }
