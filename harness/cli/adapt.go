package cli

import (
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/adapt"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func adaptCommand() *cobra.Command {
	var c common
	var b backendFlags
	var load predict.LoadOptions
	var o adapt.Options
	var defocus float64
	var void int
	var estimateOnly bool
	cmd := &cobra.Command{
		Use:   "adapt MODEL IMAGE... -o DIR",
		Short: "Bring a model to the conditions of your micrographs",
		Long: `Estimates the conditions of micrographs, warns where the model was trained far from
them, simulates labelled images under them, trains the model on from its weights,
and exports it with a certificate. Labels of the micrographs are not needed; with
--labels the models before and after are compared with them.

Estimated are the pixel size, as the files say; the dose, as the files say or, where
pixels count electrons, from them; and the defocus, from the rings that amorphous
carbon shows in the power spectrum, with its error. The rings do not tell
underfocus from overfocus; the skewness of the image does. Where it does not, both
are given and simulated. What cannot be told is said, and flags give it. A lens
without spherical aberration is assumed; the specimen is simulated as in the model's
training, with --crystal of another material. --estimate-only stops after that.

IMAGE is a file, a folder or a pattern; all are taken for one session. MODEL is an
ONNX file, whether refocus has made it or not, or the digest of a run in the store.
DIR takes the model (` + adapt.ModelFile + `), the estimate (` + adapt.EstimateFile + `) and the spec
(` + adapt.SpecFile + `), which 'refocus plan' says the cost of and 'refocus reproduce' runs
again. Interrupted, the same command goes on where it stopped.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef(cmd, "adapt takes a model and at least one image")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !estimateOnly && o.Dir == "" {
				return usagef(cmd, "say with -o which folder to write into, or --estimate-only")
			}
			if o.Training.LearningRate == 0 {
				return usagef(cmd, "--learning-rate must be above 0")
			}
			ctx, out := cmd.Context(), c.printer()
			m, err := adapt.Open(args[0], c.out, load)
			if err != nil {
				return err
			}
			for _, note := range m.Notes {
				out.Printf("%s: %s", args[0], note)
			}
			if cmd.Flags().Changed("defocus") {
				o.Given.Defocus = &defocus
			}
			if cmd.Flags().Changed("void") {
				o.Evaluate.Void = &void
			}
			o.Images = args[1:]
			e, err := m.Estimate(ctx, o.Images, o.Given, out)
			if err != nil {
				return err
			}
			out.Event("estimate", map[string]any{"estimate": e})
			show(cmd, &c, e.Lines())
			if estimateOnly {
				return nil
			}
			if o.Store, err = store.Open(c.out); err != nil {
				return err
			}
			if o.Backend, err = b.describe(ctx, out); err != nil {
				return err
			}
			t := &o.Train
			if t.SHA256, err = b.digest(); err != nil {
				return err
			}
			t.Launch, t.Harness, t.Jobs, t.Restarts = b.logged(out), version(), 1, 3
			_, t.Threads = reproduce.Share(1, t.Threads, runtime.NumCPU(), 0)
			o.Progress = out
			defer unhurried(ctx)()
			r, err := m.Run(ctx, e, o)
			if err != nil {
				return err
			}
			fields := map[string]any{"run": r.Model.Digest, "dice_before": r.Before, "dice_after": r.After, "model": filepath.Join(o.Dir, adapt.ModelFile)}
			if r.LabelledAfter != nil {
				fields["labelled_before"], fields["labelled_after"] = r.LabelledBefore.All, r.LabelledAfter.All
			}
			show(cmd, &c, r.Lines())
			if !c.json {
				for _, f := range r.Written {
					out.Printf("wrote %s, %s", f.Path, f.Certificate.Summary())
				}
				out.Printf("'refocus reproduce %s' runs it again", filepath.Join(o.Dir, adapt.SpecFile))
			}
			out.Event("done", fields)
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&estimateOnly, "estimate-only", false, "print the estimate and stop")
	f.StringVarP(&o.Dir, "output", "o", "", "`DIR` to write into")
	floatFlag(cmd, &o.Given.PixelSize, "pixel-size", 0, 0, "of the images in Å (default: as the files say)")
	floatFlag(cmd, &o.Given.Dose, "dose", 0, 0, "in electrons per Å² (default: as the files say, or counted)")
	floatFlag(cmd, &defocus, "defocus", -1e5, 0, "in Å with the sign of the series, overfocus positive (default: from the rings)")
	floatFlag(cmd, &o.Given.Energy, "beam-energy", 0, 0, "in eV (default: as of the model's training images, else 300000)")
	f.StringVar(&o.Given.Crystal, "crystal", "", "`NAME` of the material that is simulated (default: as the model was trained on)")
	intFlag(cmd, &o.Training.Images, "images", 2, 64, "simulated to train on, each in eight orientations")
	intFlag(cmd, &o.Training.Epochs, "epochs", 1, 6, "of training")
	floatFlag(cmd, &o.Training.LearningRate, "learning-rate", 0, 3e-4, "of the first epoch")
	intFlag(cmd, &o.Train.Threads, "threads", 0, 0, "of training (default: one per core; results do not depend on it)")
	f.StringSliceVar(&o.Labels, "labels", nil, "`LABELS` of the images, in the same order, to compare both models with; may be repeated")
	choiceFlag(cmd, &o.Evaluate.Kind, "label-kind", "", "what the labels' values are (default: mask)", predict.MaskLabels, predict.ClassLabels, predict.InstanceLabels)
	intFlag(cmd, &void, "void", 0, 0, "value of the labels' pixels that are left out (default: none)")
	f.StringVar(&load.Output, "output-name", "", "use the model's output of this `NAME` (default: the first)")
	f.StringVar(&load.Activation, "activation", "", "what turns the output into probabilities: softmax, sigmoid, logsoftmax or none (default: as the network ends)")
	f.StringVar(&load.Preparation, "normalize", "", "how an image is prepared for the model as it is (default: as it says); the adapted one takes standardised images")
	return cmd
}

// show prints lines for people.
func show(cmd *cobra.Command, c *common, lines []string) {
	if c.json {
		return
	}
	for _, l := range lines {
		fmt.Fprintln(cmd.OutOrStdout(), l)
	}
}
