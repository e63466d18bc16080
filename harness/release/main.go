// Command release makes what a version of refocus is published as: an archive for
// every platform with the program, the Gorgonia plugin and the file that pins it;
// the sources; root file systems for containers; checksums, a bill of materials,
// the licences of what is linked; and the recipes that Docker, Apptainer and
// conda-forge build from.
//
//	go run ./harness/release v1.2.3
//	go run ./harness/release notices   # only the licences of what is linked here
//
// The same commit gives the same bytes wherever it is checked out: nothing in
// them comes from the clock or from the folder.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

// platforms are those that archives are made for.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

var semver = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

func run(ctx context.Context, args []string, log io.Writer) error {
	f := flag.NewFlagSet("release", flag.ContinueOnError)
	out := f.String("out", "dist/release", "folder to write to; a folder of the version's name is made in it")
	only := f.String("platforms", strings.Join(platforms, ","), "platforms to make archives for")
	dirty := f.Bool("dirty", false, "also from a checkout with changes, for trying this out")
	bom := f.Bool("bom", true, "write the bill of materials, by cyclonedx-gomod")
	f.SetOutput(log)
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: release VERSION [flags], VERSION such as v1.2.3")
		f.PrintDefaults()
	}
	if len(args) == 1 && args[0] == "notices" {
		b, err := (&release{}).notices(ctx, []string{runtime.GOOS + "/" + runtime.GOARCH})
		if err == nil {
			_, err = log.Write(b)
		}
		return err
	}
	if len(args) == 0 || !semver.MatchString(args[0]) {
		f.Usage()
		return fmt.Errorf("say first which version this is, such as v1.2.3")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	targets := strings.Split(*only, ",")
	host := runtime.GOOS + "/" + runtime.GOARCH
	found := false
	for _, t := range targets {
		if !strings.Contains(t, "/") {
			return fmt.Errorf("%q is no platform such as linux/amd64", t)
		}
		found = found || t == host
	}
	if !found { // the plugin has to say what it is before it can be pinned
		targets = append([]string{host}, targets...)
	}
	r := &release{version: args[0], log: log, bom: *bom, host: host}
	folder, err := filepath.Abs(filepath.Join(*out, r.version))
	if err != nil {
		return err
	}
	r.folder = folder
	return r.make(ctx, targets, *dirty)
}
