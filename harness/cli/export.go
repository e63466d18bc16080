package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/progress"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/browser"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

func exportCommand() *cobra.Command {
	var c common
	var b backendFlags
	var series, output string
	var authors, maintainers []string
	var o export.Options
	cmd := &cobra.Command{
		Use:   "export RUN|best -o FILE",
		Short: "Write a trained model as ONNX or as a BioImage Model Zoo package",
		Long: `Exports the model of a finished run, named by its digest or the beginning of it,
or the best one of a series, the one with the lowest validation loss on its target. The
file is certified before it gets its name: read back, compared bit by bit, and
its predictions compared with the backend's and, where they are installed, with
those of ONNX Runtime and OpenCV. The certificate is written beside it.

For these programs it looks for npm's onnxruntime-node and @opencvjs/web in
$REFOCUS_NODE_MODULES or ./node_modules, and for Python's cv2 and onnx in
$REFOCUS_PYTHON, /usr/bin/python3 or python3.`,
		Args: exactly(1, "a run or the word best"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usagef(cmd, "say with -o which file to write")
			}
			if len(authors)+len(maintainers) > 0 && o.Format != export.BioImageIO {
				return usagef(cmd, "--author and --maintainer are for --format %s", export.BioImageIO)
			}
			ctx, out := cmd.Context(), c.printer()
			m, st, err := c.model(ctx, args[0], series, &b, out)
			if err != nil {
				return err
			}
			m.authors, m.maintainers = authors, maintainers
			client, err := b.launch(ctx, out)
			if err != nil {
				return err
			}
			defer client.Close()
			files, err := m.export(ctx, st, output, o, client)
			if err != nil {
				return err
			}
			for _, f := range files {
				out.Printf("wrote %s", f)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "`FILE` to write")
	f.StringVar(&series, "series", "defocus", "`SERIES|FILE` whose best model is meant")
	f.StringVar(&o.Format, "format", export.ONNX, `"onnx" or "bioimageio"`)
	f.StringVar(&o.Precision, "precision", export.Float32, `of the stored weights: "float32" or "float16"`)
	f.StringArrayVar(&authors, "author", nil, "`NAME` of an author of the BioImage Model Zoo package; may be repeated")
	f.StringArrayVar(&maintainers, "maintainer", nil, "`NAME` on GitHub of a maintainer of the package, whom the zoo asks for; may be repeated")
	f.BoolVar(&o.Standardize, "standardize", false, "write a second model that takes raw images and standardises them itself")
	return cmd
}

// model opens the run that an argument names: "best" of a series, or a digest.
func (c *common) model(ctx context.Context, arg, series string, b *backendFlags, out *progress.Printer) (*model, *store.Store, error) {
	if arg != "best" {
		st, err := store.Existing(c.out)
		if err != nil {
			return nil, nil, err
		}
		m, err := findModel(st, arg)
		return m, st, err
	}
	r, err := c.resolve(ctx, series, b, store.Existing, out)
	if err != nil {
		return nil, nil, err
	}
	m, err := best(r.store, r.nodes)
	if err == nil && m == nil {
		err = r.noModel()
	}
	return m, r.store, err
}

// model is a finished run with its trained network.
type model struct {
	digest   string
	manifest *store.Manifest
	spec     train.Spec
	history  *store.History
	graph    *nn.Graph

	// of a package; the first are "The refocus developers" where there are none
	authors, maintainers []string
}

// loss is the lowest validation loss on the target, without the offset of the
// study's loss.
func (m *model) loss() float64 {
	l := m.history.Epochs[m.history.Best-1].Validation[m.spec.Target].Loss
	if m.spec.Loss == backend.LossOnProbabilities {
		l -= math.Log1p(math.Exp(-1))
	}
	return l
}

func openModel(st *store.Store, digest string) (*model, error) {
	m := &model{digest: digest}
	var err error
	if m.manifest, err = st.Manifest(digest); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m.manifest.Spec, &m.spec); err != nil {
		return nil, fmt.Errorf("run %.12s: its manifest's spec is damaged: %w", digest, err)
	}
	if m.history, err = st.History(digest); err != nil {
		return nil, err
	}
	w, err := st.Weights(digest)
	if err != nil {
		return nil, err
	}
	if m.graph, err = m.spec.Graph(); err != nil {
		return nil, err
	}
	if err := train.LoadWeights(m.graph, w); err != nil {
		return nil, fmt.Errorf("run %.12s: %w", digest, err)
	}
	return m, nil
}

// findModel opens the one run whose digest begins with prefix.
func findModel(st *store.Store, prefix string) (*model, error) {
	runs, err := st.Runs()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, r := range runs {
		if strings.HasPrefix(r, strings.ToLower(prefix)) {
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("no finished run in %s has a digest that begins with %q", st.Root(), prefix)
	case len(found) > 1:
		return nil, fmt.Errorf("%d runs have digests that begin with %q; give more of it", len(found), prefix)
	}
	return openModel(st, found[0])
}

// best opens the trained model with the lowest validation loss on its target;
// nil where none is finished.
func best(st *store.Store, nodes []*reproduce.Node) (*model, error) {
	var digest string
	lowest := math.Inf(1)
	for _, n := range nodes {
		if n.Spec.Stage == study.PretrainRun || !st.HasRun(n.Digest) {
			continue
		}
		h, err := st.History(n.Digest)
		if err != nil {
			return nil, err
		}
		if l, ok := h.BestLoss(n.Spec.Target); ok && l < lowest {
			lowest, digest = l, n.Digest
		}
	}
	if digest == "" {
		return nil, nil
	}
	return openModel(st, digest)
}

// export certifies the model with images of its target domain's validation set.
func (m *model) export(ctx context.Context, st *store.Store, path string, o export.Options, c backend.Backend) ([]string, error) {
	// The file computes in float32, also where training was in mixed precision.
	options := sessionOptions(m.spec)
	if options.Precision == backend.Mixed {
		options.Precision = backend.Float32
	}
	o.Predict = func(ctx context.Context, g *nn.Graph, x export.Image) (export.Image, error) {
		s, err := c.Open(ctx, g, options)
		if err != nil {
			return export.Image{}, err
		}
		defer s.Close()
		y, err := s.Predict(ctx, backend.Tensor{Shape: x.Shape, F32: x.Data})
		if err != nil {
			return export.Image{}, err
		}
		r := export.Image{Shape: y.Shape, Data: y.F32}
		if y.F64 != nil {
			r.Data = make([]float32, len(y.F64))
			for i, v := range y.F64 {
				r.Data[i] = float32(v)
			}
		}
		return r, nil
	}
	e, err := m.exported(st)
	if err != nil {
		return nil, err
	}
	return export.Write(ctx, path, e, o)
}

// exported describes the model for its users.
func (m *model) exported(st *store.Store) (export.Model, error) {
	var target train.Domain
	for _, d := range m.spec.Validation {
		if d.Name == m.spec.Target {
			target = d
		}
	}
	ready, err := dataset.Find(st.Root(), target.Digest)
	if err != nil {
		return export.Model{}, fmt.Errorf("the images of domain %s are needed to certify the model: %w", target.Name, err)
	}
	set, err := dataset.ReadManifest(st.Root(), target.Digest)
	if err != nil {
		return export.Model{}, err
	}
	what := "domain " + target.Name
	short := what
	if set.Config != nil {
		short = fmt.Sprintf("%s, %g nm, %g e⁻/Å²", set.Config.Crystal, set.Conditions.Defocus/10, set.Conditions.Dose)
		what = fmt.Sprintf("%s, defocus %g nm, dose %g e⁻/Å²", set.Config.Crystal, set.Conditions.Defocus/10, set.Conditions.Dose)
	}
	score := m.history.Epochs[m.history.Best-1].Validation[m.spec.Target]
	e := export.Model{
		Graph: m.graph,
		Title: "HRTEM nanoparticle segmentation, " + short,
		Description: fmt.Sprintf("U-Net of width %d with a ResNet encoder, trained by refocus on %s (%s stage, run %s of study %s). "+
			"Input: one image of zero mean and unit variance; output: the probabilities of background and nanoparticle.",
			m.spec.Network.Width, what, m.spec.Stage, m.manifest.ID, m.manifest.Study),
		Study:          m.manifest.Study,
		SpecDigest:     m.manifest.StudyDigest,
		RunDigest:      m.digest,
		Domain:         target.Name,
		PixelSize:      ready.PixelSize,
		ValidationLoss: m.loss(),
		ClassNames:     []string{"background", "nanoparticle"},
		License:        "CC-BY-4.0",
		Authors:        m.authors,
		Maintainers:    m.maintainers,
		Cite: []export.Citation{{
			Text: "L. Rangel DaCosta, H. Oill, M. C. Scott: Strategies for effective transfer learning for HRTEM analysis with neural networks. Elemental Microscopy (2025)",
			DOI:  "10.69761/kjte5358",
		}},
		Finished: m.manifest.Finished,
		Version:  m.manifest.Harness,
		Validation: fmt.Sprintf("On %d validation images of structures that it was not trained on, the loss is %.4g above its minimum and the Dice coefficient %.4f.",
			target.Images, m.loss(), score.Dice),
	}
	if len(e.Authors) == 0 {
		e.Authors = []string{"The refocus developers"}
	}
	for _, f := range m.manifest.Files {
		if f.Name == store.WeightsFile {
			e.WeightsDigest = f.SHA256
		}
	}
	f, err := safetensors.Open(ready.Path)
	if err != nil {
		return export.Model{}, err
	}
	defer f.Close()
	const holdout = 8
	n := ready.Height * ready.Width
	for i := range min(holdout, ready.Count) {
		l := export.Labelled{Image: export.Image{Shape: []int{1, 1, ready.Height, ready.Width}, Data: make([]float32, n)}, Labels: make([]uint8, n)}
		if err := f.ReadFloat32("images", i*n, l.Data); err != nil {
			return export.Model{}, fmt.Errorf("%s: %w", ready.Path, err)
		}
		if err := f.ReadUint8("labels", i*n, l.Labels); err != nil {
			return export.Model{}, fmt.Errorf("%s: %w", ready.Path, err)
		}
		e.Holdout = append(e.Holdout, l)
	}
	e.Example = e.Holdout[0].Image
	return e, nil
}

// browserPage writes a page that runs the exported model on images dropped into
// it.
func (m *model) browserPage(st *store.Store, onnxPath, path string) error {
	runtime, err := browser.FindRuntime()
	if err != nil {
		return err
	}
	e, err := m.exported(st)
	if err != nil {
		return err
	}
	p := &browser.Page{Title: e.Title, Description: e.Description, PixelSize: e.PixelSize, Classes: e.ClassNames,
		Example: &browser.Image{H: e.Example.Shape[2], W: e.Example.Shape[3], Pixels: e.Example.Data}}
	if p.Model, err = os.ReadFile(onnxPath); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := p.Write(&b, runtime); err != nil {
		return err
	}
	return store.WriteFile(path, b.Bytes())
}
