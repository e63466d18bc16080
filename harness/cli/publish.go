package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/crate"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

func publishCommand() *cobra.Command {
	var c common
	var b backendFlags
	var o crate.Options
	var name, license string
	var authors []string
	cmd := &cobra.Command{
		Use:   "publish STORE --to DIR|FILE.zip --license SPDX",
		Short: "Write a finished study as a Workflow Run RO-Crate",
		Long: `Writes a finished study as a research object that others can read and check: a folder,
or a ZIP file, with the spec, the images, every run, the report and the best models as
ONNX, pins of the backends, the published tables that the report compares with (under
their own licence), the SHA-256 of every file and the root of a Merkle tree over them.
It is a Workflow Run RO-Crate (https://w3id.org/ro/wfrun/workflow/0.5), and a store, too:
'refocus audit' trains a sample of it again.

The study is the one that the store has runs of; where there are several, or its spec is
a file, --study names it. The licence of what is published must be given, and nobody is
named as its author who is not given.`,
		Args: exactly(1, "a store"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx, out := cmd.Context(), c.printer()
			if o.To == "" || license == "" {
				return usagef(cmd, "--to and --license must be given")
			}
			if o.License, err = crate.License(license); err != nil {
				return usagef(cmd, "--license: %v", err)
			}
			for _, a := range authors {
				p, err := crate.ParsePerson(a)
				if err != nil {
					return usagef(cmd, "--author: %v", err)
				}
				o.Authors = append(o.Authors, p)
			}
			c.out = args[0]
			if name == "" {
				if name, err = onlyStudy(&c); err != nil {
					return err
				}
			}
			if o.File, err = study.Find(name); err != nil {
				return err
			}
			r, err := c.resolve(ctx, name, &b, store.Existing, out)
			if err != nil {
				return err
			}
			o.Version, o.Progress, o.Launch = version(), out, b.process(out)
			root, err := crate.Publish(ctx, r, o)
			if err != nil {
				return err
			}
			out.Printf("crate: %s", o.To)
			out.Printf("root:  %s", root)
			out.Event("done", map[string]any{"crate": o.To, "root": root})
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.To, "to", "", "`DIR` to make, or FILE.zip")
	f.StringVar(&license, "license", "", "licence of what is published: an `SPDX` identifier such as CC-BY-4.0, or an address")
	f.StringArrayVar(&authors, "author", nil, "an author, `'NAME <ORCID>'` or NAME alone; may be repeated")
	f.StringVar(&name, "study", "", "the study, a `SERIES|FILE` (default: the only one that the store has runs of)")
	c.profileFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	return cmd
}

// onlyStudy is the one study that the store has runs of, whose profile it sets.
func onlyStudy(c *common) (name string, err error) {
	st, err := store.Existing(c.out)
	if err != nil {
		return "", err
	}
	runs, err := st.Runs()
	if err != nil {
		return "", err
	}
	var all []string
	for _, digest := range runs {
		m, err := st.Manifest(digest)
		if err != nil {
			return "", err
		}
		if !slices.Contains(all, m.Study) {
			all = append(all, m.Study)
		}
	}
	slices.Sort(all)
	switch len(all) {
	case 0:
		return "", fmt.Errorf("the store %s has no finished run: 'refocus reproduce' makes some", c.out)
	case 1:
	default:
		return "", fmt.Errorf("the store %s has runs of several studies (%s): --study and --profile say which to publish", c.out, strings.Join(all, ", "))
	}
	name, profile, _ := strings.Cut(all[0], "/")
	if !slices.Contains(study.Series(), name) {
		return "", fmt.Errorf("the store %s is of the study %s, which refocus does not come with: --study names the file of its spec", c.out, name)
	}
	if c.profile == "" && profile != "base" {
		c.profile = profile
	}
	return name, nil
}

// openSubject opens a store, or a crate, whose every file it compares with what the
// crate lists. done gives back what that took.
func openSubject(ctx context.Context, path string, c *common) (st *store.Store, of *crate.Crate, done func(), err error) {
	done = func() {}
	if crate.Is(path) {
		if of, err = crate.Open(ctx, path, c.printer()); err != nil {
			return nil, nil, done, err
		}
		path, done = of.Dir, func() { of.Close() }
	}
	if st, err = store.Existing(path); err != nil {
		done()
	}
	return st, of, done, err
}
