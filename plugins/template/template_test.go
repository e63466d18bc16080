package main

import (
	"os"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// The test binary is the plugin when the harness starts it.
const servesPlugin = "REFOCUS_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(servesPlugin) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The conformance suite, through a real process.
func TestConformance(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := plugin.Launch(t.Context(), plugin.Spec{Name: "template", Path: exe, Env: []string{servesPlugin + "=1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	backendtest.Test(t, c, backendtest.Options{})
}
