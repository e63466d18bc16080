package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/predict"
)

func predictCommand() *cobra.Command {
	var c common
	var b backendFlags
	var o predict.Options
	var load predict.LoadOptions
	var dir string
	cmd := &cobra.Command{
		Use:   "predict MODEL IMAGE... -o DIR",
		Short: "Segment micrographs with an exported model",
		Long: `Segments images (NPY, NPZ, TIFF, HDF5/EMD, PNG, MRC; any size) with a model that
refocus exported, with another ONNX network, or with a package of the BioImage
Model Zoo. Each image is prepared as a whole (standardised, where the model does not
say otherwise) and predicted in overlapping tiles, so that the result is that of the
whole image and memory stays bounded. What was decided about the model is printed.
Writes for every image the
probability map, a mask, a label image, a table of the particles with areas and
diameters, and an overlay. The exported best model of a study that was reproduced is
artifacts/reports/STUDY-PROFILE/best.onnx (with -BACKEND, where it is not cpu).`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef(cmd, "predict takes a model and at least one image")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" {
				return usagef(cmd, "say with -o into which directory to write")
			}
			ctx, out := cmd.Context(), c.printer()
			m, err := predict.Load(args[0], load)
			if err != nil {
				return err
			}
			for _, note := range m.Notes {
				out.Printf("%s: %s", args[0], note)
			}
			client, err := b.launch(ctx, out)
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Open(ctx, m.Graph, backend.Options{Threads: runtime.NumCPU()})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			defer s.Close()
			run := func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
				p, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
				return p.F32, err
			}
			o.Progress = out
			results, err := m.Files(ctx, args[1:], dir, run, o)
			for _, r := range results {
				for _, note := range r.Notes {
					out.Printf("%s: %s", r.Source, note)
				}
				out.Printf("%s: %d particles", r.Source, len(r.Particles))
				for _, f := range r.Files {
					out.Printf("  wrote %s", f)
				}
			}
			return err
		},
	}
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.StringVarP(&dir, "output", "o", "", "`DIR` to write into")
	intFlag(cmd, &o.Tile, "tile", 1, predict.DefaultTile, "side of a tile in pixels, overlap included")
	intFlag(cmd, &o.MinArea, "min-area", 0, 0, "leave out particles of fewer pixels")
	f.StringVar(&load.Output, "output-name", "", "use the model's output of this `NAME` (default: the first)")
	f.StringVar(&load.Activation, "activation", "", "what turns the output into probabilities: softmax, sigmoid, logsoftmax or none (default: as the network ends)")
	f.StringVar(&load.Preparation, "normalize", "", "how an image is prepared: standardize, range, percentile:LOW,HIGH, fixed:MEAN,STD or none (default: as the model says)")
	floatFlag(cmd, &o.PixelSize, "pixel-size", 0, 0, "of the images in Å (default: as the image says; without either, measures are in pixels only)")
	return cmd
}
