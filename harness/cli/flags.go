package cli

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// group makes cmd a command that has only subcommands: another word after it is
// an error, none shows the help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef(cmd, "unknown command %q; nearest: %s", args[0], strings.Join(near, ", "))
		}
		return usagef(cmd, "unknown command %q", args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// exactly is cobra.ExactArgs with this program's exit code for misuse.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef(cmd, "%s takes %s, not %d arguments", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// intFlag defines a flag for a whole number that is not less than least.
func intFlag(cmd *cobra.Command, to *int, name string, least, value int, usage string) {
	*to = value
	cmd.Flags().Var(&numberFlag[int]{to, least, "int", strconv.Atoi}, name, usage)
}

// floatFlag defines a flag for a finite number that is not less than least.
func floatFlag(cmd *cobra.Command, to *float64, name string, least, value float64, usage string) {
	*to = value
	parse := func(s string) (float64, error) {
		x, err := strconv.ParseFloat(s, 64)
		if err == nil && (math.IsNaN(x) || math.IsInf(x, 0)) {
			err = strconv.ErrRange
		}
		return x, err
	}
	cmd.Flags().Var(&numberFlag[float64]{to, least, "float", parse}, name, usage)
}

// probabilityFlag defines a flag for a number between 0 and 1, both excluded.
func probabilityFlag(cmd *cobra.Command, to *float64, name string, value float64, usage string) {
	*to = value
	parse := func(s string) (float64, error) {
		x, err := strconv.ParseFloat(s, 64)
		if err == nil && !(x > 0 && x < 1) {
			err = strconv.ErrRange
		}
		return x, err
	}
	cmd.Flags().Var(&numberFlag[float64]{to, 0, "probability", parse}, name, usage)
}

type numberFlag[T cmp.Ordered] struct {
	to    *T
	least T
	kind  string
	parse func(string) (T, error)
}

func (n *numberFlag[T]) String() string {
	if n.to == nil { // pflag asks a zero value
		return ""
	}
	return fmt.Sprint(*n.to)
}

func (n *numberFlag[T]) Type() string { return n.kind }

func (n *numberFlag[T]) Set(s string) error {
	v, err := n.parse(s)
	if err != nil {
		what := map[string]string{"int": "a whole number", "float": "a number", "probability": "above 0 and below 1", "duration": "a duration such as 90s or 2h"}[n.kind]
		return fmt.Errorf("must be %s", what)
	}
	if v < n.least {
		if n.kind == "duration" {
			return errors.New("must be above nought")
		}
		return fmt.Errorf("must be at least %v", n.least)
	}
	*n.to = v
	return nil
}

// durationFlag defines a flag for a duration above nought, such as 90s or 2h.
func durationFlag(cmd *cobra.Command, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	cmd.Flags().Var(&numberFlag[time.Duration]{to, 1, "duration", time.ParseDuration}, name, usage)
}

// choiceFlag defines a flag for one of several words.
func choiceFlag(cmd *cobra.Command, to *string, name, value, usage string, choices ...string) {
	*to = value
	cmd.Flags().Var(&choice{to, choices}, name, usage)
}

type choice struct {
	to      *string
	choices []string
}

func (c *choice) String() string {
	if c.to == nil {
		return ""
	}
	return *c.to
}

func (c *choice) Type() string { return "string" }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("must be %s", strings.Join(c.choices, " or "))
	}
	*c.to = s
	return nil
}
