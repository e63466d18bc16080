package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// build is what is known of the program that runs.
type build struct {
	Version  string `json:"version"`            // a tag, a pseudo-version of Go, or "development"
	Commit   string `json:"commit,omitempty"`   // "" where it is not known
	Modified bool   `json:"modified,omitempty"` // the sources were not the commit's
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// release and commit are set by the linker in what harness/release builds.
var release, commit string

// program tells the build. What the Go tool recorded comes first; it records no
// commit under "go run", whose sources are then asked, where they lie in a
// checkout.
var program = sync.OnceValue(func() build {
	b := build{Version: "development", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if release != "" {
		b.Version, b.Commit = release, commit
		return b
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	if b.Commit == "" && b.Version == "development" && underGoRun() {
		_, source, _, _ := runtime.Caller(0)
		b.Commit, b.Modified = checkout(filepath.Dir(source))
	}
	return b
})

// underGoRun reports whether "go run" or "go test" has just built this program, so
// that the sources are still what it was built from. Both leave executables in
// folders of the Go tool's.
func underGoRun() bool {
	exe, err := os.Executable()
	return err == nil && strings.Contains(filepath.ToSlash(exe), "/go-build")
}

// checkout is the commit that a folder of sources is checked out at, "" where
// git or the checkout is not there, and whether files that it tracks differ.
func checkout(folder string) (commit string, modified bool) {
	if !filepath.IsAbs(folder) { // built with -trimpath
		return "", false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", folder, "--no-optional-locks"}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	// A copy of the sources within some other project's checkout is not at that
	// project's commit.
	if _, err := git("ls-files", "--error-unmatch", "version.go"); err != nil {
		return "", false
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return "", false
	}
	changes, err := git("status", "--porcelain", "--untracked-files=no", ":/")
	return commit, err != nil || changes != ""
}

func (b build) String() string {
	s := b.Version
	// Go's pseudo-versions end with the commit, and with +dirty.
	if c := b.Commit[:min(12, len(b.Commit))]; c != "" && !strings.Contains(s, c) {
		s += " " + c
		if b.Modified && !strings.HasSuffix(b.Version, "+dirty") {
			s += "+dirty"
		}
	}
	return s + " " + b.Go + " " + b.Platform
}

// version is what manifests and reports say of the program.
func version() string { return program().String() }

func versionCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which version this is, of which commit",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := program()
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(b)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "refocus %s\n", b.Version)
			switch {
			case b.Commit == "":
				fmt.Fprintln(w, "commit    unknown")
			case b.Modified:
				fmt.Fprintf(w, "commit    %s, with changes\n", b.Commit)
			default:
				fmt.Fprintf(w, "commit    %s\n", b.Commit)
			}
			fmt.Fprintf(w, "built by  %s for %s\n", b.Go, b.Platform)
			return nil
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
