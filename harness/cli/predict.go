package cli

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/measure"
	"github.com/refocus-em/refocus/harness/predict"
)

func predictCommand() *cobra.Command {
	var c common
	var g segmenting
	var dir string
	cmd := &cobra.Command{
		Use:   "predict MODEL IMAGE... -o DIR",
		Short: "Segment micrographs with an exported model",
		Long: `Segments images (DM3, DM4, SER/EMI, EMD, TIFF, MRC, HDF5, NPY, NPZ, PNG, JPEG; any size) with a model that
refocus exported, with another ONNX network, or with a package of the BioImage
Model Zoo. IMAGE is a file, a folder, or a pattern such as '*.tif'.

Each image is repaired (hot, dead and missing pixels and areas without signal are
left out and filled), resampled to the model's pixel size where both are known,
prepared as a whole (standardised, where the model does not say otherwise) and
predicted in overlapping tiles, so that the result is that of the whole image and
memory stays bounded. The result has the file's pixels again. What was decided about
the model and done to an image is printed.

Writes for every image, under its name, the probability map, a mask, a label image,
an overlay, and outlines for ImageJ and QuPath; and for all of them particles.csv
with the size and shape of every particle, results.json with the same, and
index.html to look at. Images that are done already are not predicted again.
The exported best model of a study that was reproduced is
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
			out := c.printer()
			m, run, done, err := g.open(cmd, args[0], out)
			if err != nil {
				return err
			}
			defer done()
			o := g.options
			o.Progress = out
			o.Warn = func(text string) { out.Printf("%s", text) }
			o.Done = func(r predict.Result) {
				fields := map[string]any{"file": r.Source, "page": r.Page, "name": r.Name, "particles": len(r.Particles), "kept": r.Kept,
					"notes": r.Notes, "pixel_height_nm": nil, "pixel_width_nm": nil, "pixel_size_from": r.PixelSizeFrom, "median_diameter_nm": nil}
				if r.PixelHeight > 0 {
					fields["pixel_height_nm"], fields["pixel_width_nm"] = r.PixelHeight, r.PixelWidth
				}
				text := fmt.Sprintf("%s: %d particles", filepath.Join(dir, r.Name), len(r.Particles))
				if d, unit := r.MedianDiameter(); !math.IsNaN(d) {
					if unit == "nm" {
						fields["median_diameter_nm"] = d
					}
					text += fmt.Sprintf(", median diameter %s %s", format.Digits(d, 3), unit)
				}
				if r.Kept {
					text += ", from before"
				}
				out.Event("image", fields)
				if c.json {
					return
				}
				for _, n := range r.Notes {
					out.Printf("%s: %s", r.Source, n)
				}
				out.Printf("%s", text)
			}
			_, err = m.Files(cmd.Context(), args[1:], dir, run, o)
			if err == nil {
				out.Printf("wrote %s", filepath.Join(dir, "index.html"))
			}
			return err
		},
	}
	c.jsonFlag(cmd)
	g.register(cmd)
	cmd.Flags().StringVarP(&dir, "output", "o", "", "`DIR` to write into")
	return cmd
}

// segmenting is what commands that segment images share.
type segmenting struct {
	backend backendFlags
	load    predict.LoadOptions
	options predict.Options
}

// open reads the model and starts a backend with it. done ends that.
func (g *segmenting) open(cmd *cobra.Command, path string, out *console.Printer) (m *predict.Segmenter, run predict.Run, done func(), err error) {
	if m, err = predict.Load(path, g.load); err != nil {
		return nil, nil, nil, err
	}
	for _, note := range m.Notes {
		out.Printf("%s: %s", path, note)
	}
	if m.PixelSize == 0 && !cmd.Flags().Changed("min-diameter") {
		g.options.MinDiameter = 0 // another network's particles may be of any size
	}
	client, err := g.backend.launch(cmd.Context(), out)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := client.Open(cmd.Context(), m.Graph, backend.Options{Threads: runtime.GOMAXPROCS(0)})
	if err != nil {
		client.Close()
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	run = func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		p, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
		return p.F32, err
	}
	return m, run, func() { s.Close(); client.Close() }, nil
}

func (g *segmenting) register(cmd *cobra.Command) {
	o, load := &g.options, &g.load
	g.backend.register(cmd)
	f := cmd.Flags()
	intFlag(cmd, &o.Tile, "tile", 1, predict.DefaultTile, "side of a tile in pixels, overlap included")
	intFlag(cmd, &o.MinArea, "min-area", 0, 0, "leave out particles of fewer pixels")
	floatFlag(cmd, &o.MinDiameter, "min-diameter", 0, predict.DefaultMinDiameter, "leave out particles of a smaller equivalent diameter in nm, where the pixel size is known (0 for models that do not say theirs)")
	probabilityFlag(cmd, &o.Threshold, "threshold", predict.DefaultThreshold, "above which a pixel is one of a particle")
	f.BoolVar(&o.FillHoles, "fill-holes", false, "count what a particle encloses as part of it")
	f.BoolVar(&o.Split, "split", false, "part touching particles by a watershed (over-splits those that are not convex)")
	probabilityFlag(cmd, &o.SplitDepth, "split-depth", measure.DefaultSplitDepth, "how deep the neck between particles is, as a part of the smaller one's radius, that --split parts them at")
	f.BoolVar(&o.ExcludeBorder, "exclude-border", false, "leave out particles that the image's border or a dead area cuts")
	f.BoolVar(&o.Flatten, "flatten", false, "divide by the illumination: a mean over a Gaussian of 64 of the network's pixels")
	f.BoolVar(&o.NoRepair, "no-repair", false, "take the pixels as they are")
	f.BoolVar(&o.NoResample, "no-resample", false, "predict at the file's pixel size")
	f.StringVar(&load.Output, "output-name", "", "use the model's output of this `NAME` (default: the first)")
	f.StringVar(&load.Activation, "activation", "", "what turns the output into probabilities: softmax, sigmoid, logsoftmax or none (default: as the network ends)")
	f.StringVar(&load.Preparation, "normalize", "", "how an image is prepared: standardize, range, percentile:LOW,HIGH, fixed:MEAN,STD or none (default: as the model says)")
	floatFlag(cmd, &o.PixelSize, "pixel-size", 0, 0, "of the images in Å (default: as the file says; without one nothing is in nm)")
}
