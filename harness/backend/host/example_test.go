package host_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/backend/host"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// Where a plugin is looked for, and what is said of one that nobody pinned.
func ExamplePlugins() {
	folder, err := os.MkdirTemp("", "plugins-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	if err := os.WriteFile(filepath.Join(folder, plugin.Prefix+"mine"), []byte("#!/bin/sh\n"), 0o777); err != nil {
		panic(err)
	}
	plugins := host.Plugins{
		Places:   []host.Place{{Folder: folder, What: "an example"}},
		LockFile: filepath.Join(folder, host.LockName),
	}
	for _, f := range plugins.List() {
		fmt.Println(f.Name, "from", f.Where)
	}
	_, err = plugins.Launch(context.Background(), "mine")
	fmt.Println(strings.ReplaceAll(filepath.ToSlash(err.Error()), filepath.ToSlash(folder), "…"))
	// Output:
	// mine from an example
	// backend mine: …/refocus-backend-mine is not pinned, since there is no lock file yet (…/refocus.lock.toml); if you trust it, pin it with `refocus backends pin mine`, or use --allow-unlocked this once
}
