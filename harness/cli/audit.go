package cli

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/audit"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func auditCommand() *cobra.Command {
	var c common
	b := backendFlags{}
	var o audit.Options
	var sample, seed, study, key, to string
	cmd := &cobra.Command{
		Use:   "audit STORE|CRATE",
		Short: "Train a random sample of a store's or a crate's runs again, and sign what came of it",
		Long: `Finds out whether what a store holds was really computed. Compares all digests, draws
runs and simulated images at random, validates the weights that the runs keep, trains
the runs again from their settings, simulates the images again, and compares: every bit
where the backend claims that its bits do not depend on the machine, losses within
tolerances where a run's arithmetic is another (--backend). Nothing is written to the
store. A crate is what 'refocus publish' has written, a folder or a ZIP file: all of its
files, and that its runs are those of its study, are compared first.

What a sample says of all is exact: had so many runs or more been false, the sample
would have held one with 95 % probability (--confidence). The more are drawn, the fewer
they are: 59 of 1200 for 5 %. A run that takes too long is trained for its first --epochs
alone; that of its weights, which are validated all the same, and of its history is
then what is vouched for. The seed of the sample is best a number that nobody knew when the store
was finished; without --seed it is the system's.

The outcome is a receipt, signed with your key (Ed25519), which is made when it is first
needed. It names the root of a Merkle tree over the store's files, seed, sample, outcomes,
program and machine; 'refocus audit verify' tells whether one is as it was signed.
Exits with 1 where something is false, could not be done again, or nothing was drawn.`,
		Args: exactly(1, "a store or a crate"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx, out := cmd.Context(), c.printer()
			if o.Sample, err = audit.ParseSample(sample); err != nil {
				return usagef(cmd, "--sample: %v", err)
			}
			if o.Seed, err = drawSeed(seed); err != nil {
				return usagef(cmd, "%v", err)
			}
			if c.profile != "" && study == "" {
				return usagef(cmd, "--profile is one of a study: give --study, too")
			}
			st, of, done, err := openSubject(ctx, args[0], &c)
			if err != nil {
				return err
			}
			defer done()
			if of != nil {
				o.Crate = of.Root
				if o.Study, err = of.Study(ctx, st); err != nil {
					return fmt.Errorf("the crate %s: %w", args[0], err)
				}
			}
			if err := files.Writable(cmp.Or(filepath.Dir(to), ".")); err != nil { // and not only after the training
				return fmt.Errorf("the receipt would have no place (--output names another): %w", err)
			}
			signer, err := signingKey(key, out)
			if err != nil {
				return err
			}
			o.Backend, o.Harness, o.Progress = b.name, version(), out
			if study != "" {
				if err := auditStudy(ctx, &c, &b, study, st.Root(), &o, out); err != nil {
					return err
				}
			}
			o.Jobs, o.Threads = reproduce.Share(o.Jobs, o.Threads, runtime.GOMAXPROCS(0), 1)
			o.Start = func(name string) (audit.Backend, error) {
				flags := b
				flags.name = name
				digest, err := flags.digest()
				return audit.Backend{Launch: flags.logged(out), SHA256: digest}, err
			}
			r, err := audit.Audit(ctx, st, o)
			var damaged *audit.DamagedError
			if errors.As(err, &damaged) {
				for _, d := range damaged.Damaged {
					fmt.Fprintf(cmd.OutOrStdout(), "damaged: %s: %s\n", d.Path, d.Problem)
				}
			}
			if err != nil {
				return err
			}
			return issue(cmd, r, signer, to, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&sample, "sample", "20", "`RUNS` to draw: a number, a share such as 5% or 0.05, or all")
	intFlag(cmd, &o.Images, "images", 0, 20, "simulated images to draw")
	intFlag(cmd, &o.Epochs, "epochs", 0, 0, "train no more than the first so many epochs of a run again (default: all)")
	f.StringVar(&seed, "seed", "", "`NUMBER` that decides, with the store's content, what is drawn (default: the system's)")
	probabilityFlag(cmd, &o.Confidence, "confidence", 0.95, "of what is said of all runs")
	f.StringVar(&study, "study", "", "audit the runs of this `SERIES|FILE` (default: all that the store holds)")
	f.StringVar(&b.name, "backend", "", "backend that trains again, by name or path (default: each run's own)")
	b.registerStart(cmd)
	f.StringVar(&o.Device, "device", "", "device of the backend to train on (default: its first)")
	intFlag(cmd, &o.Jobs, "jobs", 0, 0, "runs trained at once (default: one a core)")
	intFlag(cmd, &o.Threads, "threads", 0, 0, "threads per run (default likewise)")
	f.StringVar(&key, "key", "", "`FILE` of the private key to sign with, PEM (default: yours, in the folder for configurations)")
	f.StringVarP(&to, "output", "o", "", "`FILE` of the receipt (default: refocus-audit-ROOT.json here)")
	c.profileFlag(cmd)
	c.jsonFlag(cmd)
	cmd.AddCommand(auditVerifyCommand())
	return cmd
}

// drawSeed is the seed that a flag gives, or one of the system's that every reader of
// JSON takes for a whole number.
func drawSeed(flag string) (uint64, error) {
	if flag == "" {
		n, err := rand.Int(rand.Reader, new(big.Int).SetUint64(1<<53))
		if err != nil {
			return 0, err
		}
		return n.Uint64(), nil
	}
	n, err := strconv.ParseUint(flag, 10, 64)
	if err != nil || n >= 1<<53 {
		return 0, fmt.Errorf("--seed must be a whole number from 0 to 2⁵³−1, not %q", flag)
	}
	return n, nil
}

// signingKey reads the key that a flag names, or the user's own, which it makes where
// there is none.
func signingKey(path string, out *console.Printer) (key ed25519.PrivateKey, err error) {
	if path == "" {
		if path, err = audit.DefaultKey(); err != nil {
			return nil, err
		}
		made, err := audit.MakeKey(path)
		if err != nil {
			return nil, fmt.Errorf("making the key that receipts are signed with: %w", err)
		}
		if made {
			out.Printf("made a key to sign receipts with: %s", path)
		}
	}
	return audit.ReadKey(path)
}

// auditStudy restricts an audit to the runs of a study.
func auditStudy(ctx context.Context, c *common, b *backendFlags, study, root string, o *audit.Options, out *console.Printer) error {
	of := *b
	of.name = cmp.Or(b.name, "cpu")
	at := *c
	at.out = root
	r, err := at.resolve(ctx, study, &of, store.Existing, out)
	if err != nil {
		return err
	}
	missing := 0
	o.Study, o.Runs = r.String(), []string{}
	for _, n := range r.Nodes {
		if _, err := os.Lstat(r.Store.RunDir(n.Digest)); err != nil {
			missing++
			continue
		}
		o.Runs = append(o.Runs, n.Digest)
	}
	switch {
	case missing == len(r.Nodes):
		return fmt.Errorf("none of the %d runs of %s are in the store %s (runs of other backends need --backend)", missing, o.Study, root)
	case missing > 0:
		out.Printf("%d of the %d runs of %s are not in the store: the audit is of the others", missing, len(r.Nodes), o.Study)
	}
	o.Missing = missing
	return nil
}

// issue signs and writes a receipt and tells what it says.
func issue(cmd *cobra.Command, r *audit.Receipt, key ed25519.PrivateKey, to string, out *console.Printer) error {
	b, err := r.Sign(key)
	if err != nil {
		return err
	}
	to = cmp.Or(to, fmt.Sprintf("refocus-audit-%.12s.json", r.Subject.Root))
	if err := files.Write(to, b); err != nil {
		return err
	}
	for _, line := range slices.Concat(r.Failed(), r.Statements) {
		out.Printf("%s", line)
	}
	out.Printf("root:    %s", r.Subject.Root)
	out.Printf("seed:    %d", r.Seed)
	out.Printf("receipt: %s (%s), signed by %s", to, r.Verdict, r.PublicKey)
	out.Event("done", map[string]any{"verdict": r.Verdict, "receipt": to, "root": r.Subject.Root, "seed": r.Seed, "public_key": r.PublicKey})
	if r.Verdict != audit.Genuine {
		return &failure{silent: true}
	}
	return nil
}

func auditVerifyCommand() *cobra.Command {
	var signer string
	cmd := &cobra.Command{
		Use:   "verify RECEIPT [STORE|CRATE]",
		Short: "Tell whether a receipt is as it was signed, and of this store or crate",
		Long: `Refuses a receipt of which any byte is not as it was signed, and else tells what it
says. Given a store it also compares the root of the store's files with the receipt's, after
comparing all digests. Whose the key is that signed it a receipt cannot tell: ask whoever audited for his public
key, and give it as --signer.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef(cmd, "verify takes a receipt and perhaps a store, not %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			r, err := audit.VerifyReceipt(content)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if signer != "" && signer != r.PublicKey {
				return fmt.Errorf("%s was signed by %s, not by %s", args[0], r.PublicKey, signer)
			}
			if len(args) > 1 {
				if err := ofReceipt(cmd.Context(), r, args[1], console.For(os.Stderr)); err != nil {
					return err
				}
			}
			describeReceipt(cmd.OutOrStdout(), r)
			return nil
		},
	}
	cmd.Flags().StringVar(&signer, "signer", "", "`KEY`, public, in hexadecimal digits, that the receipt must be signed by")
	return cmd
}

// ofReceipt returns an error unless a receipt is of a store.
func ofReceipt(ctx context.Context, r *audit.Receipt, path string, out *console.Printer) error {
	st, of, done, err := openSubject(ctx, path, new(common))
	if err != nil {
		return err
	}
	defer done()
	if of != nil && of.Root != r.Subject.Crate {
		return fmt.Errorf("the receipt is of a crate with root %s, that of %s is %s", cmp.Or(r.Subject.Crate, "none"), path, of.Root)
	}
	v, err := reproduce.Verify(ctx, st, out)
	if err != nil {
		return err
	}
	if len(v.Damaged) > 0 {
		return &audit.DamagedError{Damaged: v.Damaged}
	}
	all, err := audit.Inventory(st)
	if err != nil {
		return err
	}
	if root := files.Root(all); root != r.Subject.Root {
		return fmt.Errorf("the receipt is of a store with root %s, that of %s is %s", r.Subject.Root, filepath.Clean(path), root)
	}
	return nil
}

func describeReceipt(w io.Writer, r *audit.Receipt) {
	fmt.Fprintf(w, "verdict:   %s\n", r.Verdict)
	for _, line := range slices.Concat(r.Failed(), r.Statements) {
		fmt.Fprintf(w, "           %s\n", format.Visible(line))
	}
	fmt.Fprintf(w, "root:      %s (%d files, %s)\n", r.Subject.Root, r.Subject.Files, format.Bytes(r.Subject.Bytes))
	if r.Subject.Crate != "" {
		fmt.Fprintf(w, "crate:     %s\n", r.Subject.Crate)
	}
	fmt.Fprintf(w, "seed:      %d\n", r.Seed)
	for _, b := range r.Backends {
		fmt.Fprintf(w, "backend:   %s\n", format.Visible(fmt.Sprintf("%s %s, numerics %s, on %s", b.Name, b.Version, b.Numerics, b.Device)))
	}
	fmt.Fprintf(w, "made on:   %s, %s, by refocus %s\n", format.Visible(r.Host.Name+" "+r.Host.OS), r.Time.Format("2 January 2006 15:04 MST"), format.Visible(r.Harness))
	fmt.Fprintf(w, "signed by: %s\n", r.PublicKey)
}
