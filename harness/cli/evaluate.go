package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/predict"
)

func evaluateCommand() *cobra.Command {
	var c common
	var g segmenting
	var labels []string
	var dir, kind string
	var void int
	cmd := &cobra.Command{
		Use:   "evaluate MODEL IMAGE... --labels LABELS",
		Short: "Score a model on labelled images",
		Long: `Segments images as predict does and compares them with labels: Dice coefficient
and intersection over union of pixels, distance of the boundaries, precision and
recall of particles (matched above an intersection over union of 0.5) and the error
of their diameters, with 95 % intervals over the images, for every image, for every
folder if there are several, and for all together.

IMAGE and LABELS are files, folders or patterns, which come in the same order.
Labels are pixels, of which those with two values are masks and others need
--label-kind; regions of ImageJ (.roi, .zip), one file for a file of images; or one
file of annotations in COCO's format (.json), which names its images.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef(cmd, "evaluate takes a model and at least one image")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(labels) == 0 {
				return usagef(cmd, "say with --labels where the labels are")
			}
			out := c.printer()
			m, run, done, err := g.open(cmd, args[0], out)
			if err != nil {
				return err
			}
			defer done()
			g.options.Progress = out
			o := predict.EvaluateOptions{Options: g.options, Kind: kind}
			if cmd.Flags().Changed("void") {
				o.Void = &void
			}
			e, err := m.Evaluate(cmd.Context(), args[1:], labels, dir, run, o)
			if err != nil {
				return err
			}
			for _, s := range e.Lines() {
				out.Event("score", map[string]any{"score": s})
			}
			for _, n := range e.Notes {
				out.Printf("%s", n)
			}
			if c.json {
				return nil
			}
			for _, s := range e.Lines() {
				out.Printf("%s: Dice %v, IoU %v; %d particles labelled, %d found, %d matched: precision %v, recall %v; boundary distance %v pixels; relative error of diameters %v",
					s.Name, s.Dice, s.IoU, s.Labelled, s.Found, s.Matched, s.Precision, s.Recall, s.BoundaryPX, s.SizeError)
			}
			if dir != "" {
				out.Printf("wrote %s", filepath.Join(dir, "evaluation.html"))
			}
			return nil
		},
	}
	c.jsonFlag(cmd)
	g.register(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&labels, "labels", nil, "`LABELS` of the images, in the same order; may be repeated")
	f.StringVarP(&dir, "output", "o", "", "`DIR` to write evaluation.csv, .json and .html into")
	intFlag(cmd, &void, "void", 0, 0, "value of the labels' pixels that are left out (default: none)")
	choiceFlag(cmd, &kind, "label-kind", "", "what the labels' values are (default: mask)", predict.MaskLabels, predict.ClassLabels, predict.InstanceLabels)
	return cmd
}
