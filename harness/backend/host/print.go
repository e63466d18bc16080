package host

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// PrintList writes a table of all backends and how they stand to the lock
// file. It starts nothing.
func (p Plugins) PrintList(w io.Writer) error {
	_, exists, err := ReadLock(p.lockFile())
	if err != nil {
		return fmt.Errorf("reading the lock file: %w", err)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tTRUST\tVERSION\tWHERE\tFILE")
	hidden := false
	for _, f := range p.List() {
		trust, _, err := p.Trust(f)
		var unlocked *UnlockedError
		if err != nil && !errors.As(err, &unlocked) {
			trust = Trust("unreadable: " + err.Error())
		}
		version, file := "", f.Path
		if l, _, err := ReadLock(p.LockFileOf(f.Name)); err == nil && trust == Pinned {
			pin, _ := l.Find(f.Name)
			version = pin.Version
		}
		if f.Builtin {
			file = ""
		}
		name := f.Name
		if f.Hidden {
			hidden = true
			name = "(" + name + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, trust, version, f.Where, file)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if hidden {
		fmt.Fprint(w, "\nIn brackets: found after another of that name, so that only its path starts it.\n")
	}
	if exists {
		_, err = fmt.Fprintf(w, "\nLock file: %s\n", p.lockFile())
	} else {
		_, err = fmt.Fprintf(w, "\nNo lock file yet; `refocus backends pin NAME` writes %s.\n", p.lockFile())
	}
	return err
}

// determinismText says what a determinism claim means.
var determinismText = map[string]string{
	backend.DeterminismNone:    "two runs may differ",
	backend.DeterminismRun:     "the same bits from every run on one machine with the same settings",
	backend.DeterminismThreads: "the same bits from every run on one machine, whatever the number of threads",
	backend.DeterminismMachine: "the same bits from every run, whatever the number of threads and the machine",
}

// PrintInfo writes what a backend says about itself.
func PrintInfo(w io.Writer, f Found, trust Trust, d backend.Description) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "name\t%s\nversion\t%s\nprotocol\t%d\nnumerics\t%s\ndeterminism\t%s: %s\n",
		d.Name, d.Version, plugin.ProtocolVersion, d.Numerics, d.Determinism, determinismText[d.Determinism])
	if f.Builtin {
		fmt.Fprintf(t, "from\tthis program\n")
	} else {
		fmt.Fprintf(t, "from\t%s (%s, %s)\n", f.Path, f.Where, trust)
	}
	for i, v := range d.Devices {
		role := ""
		if i == 0 {
			role = ", default"
		}
		fmt.Fprintf(t, "device\t%s (%s%s): %s", v.Name, v.Kind, role, v.Info)
		if v.Driver != "" {
			fmt.Fprintf(t, ", driver %s", v.Driver)
		}
		if v.ID != "" {
			fmt.Fprintf(t, ", %s", v.ID)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintf(t, "precisions\t%s\nlosses\t%s\n", strings.Join(d.Precisions, ", "), strings.Join(d.Losses, ", "))
	for _, o := range d.Operators {
		fmt.Fprintf(t, "operator\t%s on %s", o.Type, o.Device)
		if o.Note != "" {
			fmt.Fprintf(t, ": %s", o.Note)
		}
		fmt.Fprintln(t)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(t, "note\t%s\n", n)
	}
	return t.Flush()
}
