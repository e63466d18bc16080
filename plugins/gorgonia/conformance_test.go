package gorgonia

import (
	"os"
	"testing"

	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// servesPlugin makes the test binary the plugin.
const servesPlugin = "REFOCUS_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(servesPlugin) != "" {
		plugin.Serve(New("test"))
		return
	}
	os.Exit(m.Run())
}

// The backend conforms, through a real process.
func TestConformance(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := plugin.Launch(t.Context(), plugin.Spec{Name: Name, Path: exe, Env: []string{servesPlugin + "=1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	backendtest.Test(t, c, backendtest.Options{})
}
