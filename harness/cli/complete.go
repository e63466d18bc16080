package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// completer lists what may stand in a place of a command line, from the
// arguments before it.
type completer = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// completion gives every command below cmd what shells complete: by the words of
// its use for arguments, by their names for flags.
func completion(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && !cmd.HasSubCommands() {
		if fields := strings.Fields(cmd.Use); len(fields) > 1 {
			cmd.ValidArgsFunction = first(argument(fields[1]), strings.HasSuffix(cmd.Use, "..."))
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		var list completer
		switch v := f.Value.(type) {
		case *choice:
			list = words(v.choices...)
		default:
			switch f.Name {
			case "profile":
				list = profiles
			case "backend", "against":
				list = backends
			case "series":
				list = specs
			case "out":
				list = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
					return nil, cobra.ShellCompDirectiveFilterDirs
				}
			}
		}
		if list != nil {
			// It fails for a flag that has a function, which then stays.
			_ = cmd.RegisterFlagCompletionFunc(f.Name, list)
		}
	})
	for _, sub := range cmd.Commands() {
		completion(sub)
	}
}

// argument completes an argument by how the use of a command names it.
func argument(use string) completer {
	switch strings.Trim(use, "[].") {
	case "SERIES|FILE":
		return specs
	case "RUN", "RUN|best":
		return runs(strings.HasSuffix(use, "best"))
	case "BACKEND", "NAME":
		return backends
	}
	return nil // the shell's own: files
}

// first completes the first argument of a command only, or every one.
func first(list completer, every bool) completer {
	if list == nil {
		return nil
	}
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && !every {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, directive := list(cmd, args, begun)
		return slices.DeleteFunc(all, func(s string) bool {
			return directive&cobra.ShellCompDirectiveFilterFileExt == 0 && !strings.HasPrefix(s, begun)
		}), directive
	}
}

func words(list ...string) completer {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// specs are the series that come with the program; a word with a slash or a dot
// is the beginning of a file's path.
func specs(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(begun, `./\`) {
		return []string{"toml"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return study.Series(), cobra.ShellCompDirectiveDefault
}

// profiles are those of the spec that the command line names, or of any series.
func profiles(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := study.Series()
	if len(args) > 0 {
		names = args[:1]
	} else if f := cmd.Flag("series"); f != nil {
		names = []string{f.Value.String()}
	}
	var all []string
	for _, name := range names {
		if f, err := study.Find(name); err == nil {
			all = append(all, f.Profiles()...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
}

// backends are those that could be started, with the place they were found in.
func backends(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, f := range new(backendFlags).plugins(console.New(nil, console.Lines)).List() {
		if !f.Hidden {
			names = append(names, f.Name+"\t"+f.Where)
		}
	}
	return names, cobra.ShellCompDirectiveDefault // or the path of one
}

// runs are the finished runs of the store, by as much of their digests as a
// person types.
func runs(best bool) completer {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		var names []string
		if best {
			names = append(names, "best\tthe lowest validation loss of a series")
		}
		if out := cmd.Flag("out"); out != nil {
			if st, err := store.Existing(out.Value.String()); err == nil {
				digests, _ := st.Runs()
				for _, d := range digests {
					names = append(names, d[:min(len(d), max(12, len(begun)))])
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
