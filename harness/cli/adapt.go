package cli

import (
	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/adapt"
	"github.com/refocus-em/refocus/harness/predict"
)

func adaptCommand() *cobra.Command {
	var c common
	var given adapt.Given
	var load predict.LoadOptions
	var defocus float64
	var estimateOnly bool
	cmd := &cobra.Command{
		Use:   "adapt MODEL IMAGE...",
		Short: "Bring a model to the conditions of your micrographs",
		Long: `Estimates the conditions of micrographs and warns where the model was trained far
from them: the pixel size as the files say; the dose as the files say or, where
pixels count electrons, from them; and the defocus from the rings that amorphous
carbon shows in the power spectrum, with its error. The rings do not tell
underfocus from overfocus; the skewness of the image does, and where it does not,
both are given. What cannot be told is said, and flags give it. A lens without
spherical aberration is assumed.

IMAGE is a file, a folder or a pattern; all are taken for one session. MODEL is an
ONNX file or the digest of a run in the store.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef(cmd, "adapt takes a model and at least one image")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !estimateOnly {
				return usagef(cmd, "say --estimate-only")
			}
			out := c.printer()
			m, err := adapt.Open(args[0], c.out, load)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("defocus") {
				given.Defocus = &defocus
			}
			e, err := m.Estimate(cmd.Context(), args[1:], given, out)
			if err != nil {
				return err
			}
			out.Event("estimate", map[string]any{"estimate": e})
			if !c.json {
				for _, l := range e.Lines() {
					out.Printf("%s", l)
				}
			}
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&estimateOnly, "estimate-only", false, "print the estimate and stop")
	floatFlag(cmd, &given.PixelSize, "pixel-size", 0, 0, "of the images in Å (default: as the files say)")
	floatFlag(cmd, &given.Dose, "dose", 0, 0, "in electrons per Å² (default: as the files say, or counted)")
	floatFlag(cmd, &defocus, "defocus", -1e5, 0, "in Å with the sign of the series, overfocus positive (default: from the rings)")
	floatFlag(cmd, &given.Energy, "beam-energy", 0, 0, "in eV (default: as of the model's training images, else 300000)")
	f.StringVar(&given.Crystal, "crystal", "", "`NAME` of what is simulated (default: as the model was trained on)")
	return cmd
}
