package export

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
)

// Model is a trained network and what is known about it.
type Model struct {
	Graph *nn.Graph // with its weights; the input is a standardised image
	// Imported says that the network comes from elsewhere. Programs that cannot run
	// its operators are then named in the certificate and are no obstacle.
	Imported bool

	Title          string // a line: "HRTEM nanoparticle segmentation, CdSe, −5 nm"
	Description    string // a paragraph
	Study          string
	SpecDigest     string
	RunDigest      string
	WeightsDigest  string  // of the run's weights file; WeightsDigest(Graph) if empty
	Domain         string  // the images it was trained for: "defocus=-5"
	PixelSize      float64 // Å, 0 where unknown
	ValidationLoss float64
	ClassNames     []string // of the output channels, the background first
	License        string   // SPDX identifier
	Authors        []string
	Maintainers    []string // their names on GitHub, for the BioImage Model Zoo; optional
	Cite           []Citation
	Finished       time.Time // of the training
	Version        string    // of refocus
	// Metadata are further entries of the file's.
	Metadata map[string]string
	// Validation says in a sentence or two how well the network does on images
	// that it was not trained on.
	Validation string

	// Example is an image of the domain: standardised, [1,1,H,W] with sizes that
	// the network takes. Without one a synthetic image stands in.
	Example Tensor
	// Holdout are validation images with labels, on which the effect of float16
	// weights is judged. Optional.
	Holdout []Labelled
}

// Citation is a publication to cite, with its DOI or, without one, its address.
type Citation struct{ Text, DOI, URL string }

// ParseCitation reads a text that ends in a DOI or an https address.
func ParseCitation(s string) (Citation, error) {
	s = strings.TrimSpace(s)
	at := strings.LastIndexAny(s, " \t\n") + 1
	text, last := strings.TrimSpace(s[:at]), s[at:]
	doi := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(last, "doi:"), "https://doi.org/"), "doi.org/")
	switch u, err := url.Parse(last); {
	case text == "":
		return Citation{}, fmt.Errorf("citation %q: needs a text before its DOI or address", s)
	case isDOI.MatchString(doi):
		return Citation{Text: text, DOI: doi}, nil
	case err == nil && u.Scheme == "https" && u.Host != "":
		return Citation{Text: text, URL: last}, nil
	}
	return Citation{}, fmt.Errorf("citation %q: its last word is neither a DOI (10.1234/abc) nor an https address", s)
}

var (
	isDOI     = regexp.MustCompile(`^10\.\d{4,9}/\S+$`)
	isLicense = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`)
)

// Address is where the publication is found.
func (c Citation) Address() string {
	if c.DOI != "" {
		return "https://doi.org/" + c.DOI
	}
	return c.URL
}

// Tensor is a batch of images [N,C,H,W].
type Tensor struct {
	Shape []int
	Data  []float32
}

// Labelled is an image with its class indices [N,H,W].
type Labelled struct {
	Tensor
	Labels []uint8
}

// Predict runs a graph on images in inference mode, with the backend that
// trained it.
type Predict func(ctx context.Context, g *nn.Graph, x Tensor) (Tensor, error)

// Formats of an export.
const (
	ONNX       = "onnx"
	BioImageIO = "bioimageio"
)

// Precisions of the stored weights.
const (
	Float32 = "float32"
	Float16 = "float16"
)

// Options of an export.
type Options struct {
	Format    string // default ONNX
	Precision string // default Float32
	Bare      bool   // leave out the second model, which standardises the image itself
	Predict   Predict
	// Consumers are asked for their predictions; nil means all. Those that are
	// not installed are recorded as such. PyTorch is asked about packages only.
	Consumers []consumer.Consumer
}

// Written is a model that was written, with its certificate.
type Written struct {
	Path            string
	CertificatePath string
	Certificate     *Certificate
}

// Standardizing is the path of the model that standardises the image itself,
// beside the one at path.
func Standardizing(path string) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-standardizing" + ext
}

// Write exports the model to path and returns what it has written: of ONNX, the
// bare network at path and beside it, unless o.Bare, the one at
// Standardizing(path), which takes images as they were recorded.
func Write(ctx context.Context, path string, m Model, o Options) ([]Written, error) {
	if o.Format == "" {
		o.Format = ONNX
	}
	if o.Precision == "" {
		o.Precision = Float32
	}
	if o.Consumers == nil {
		o.Consumers = append(consumer.All(), consumer.PyTorch)
	}
	err := m.check(o)
	if err == nil {
		err = files.Writable(filepath.Dir(path)) // and not only after the work
	}
	if err != nil {
		return nil, fmt.Errorf("exporting %s: %w", path, err)
	}
	var all []Written
	kinds := []bool{false}
	if !o.Bare && o.Format == ONNX {
		kinds = append(kinds, true)
	}
	for _, standardized := range kinds {
		to := path
		if standardized {
			to = Standardizing(path)
		}
		w, err := write(ctx, to, m, o, standardized)
		if err != nil {
			return all, fmt.Errorf("exporting %s: %w", to, err)
		}
		all = append(all, w)
	}
	return all, nil
}

func (m *Model) check(o Options) error {
	switch {
	case o.Format != ONNX && o.Format != BioImageIO:
		return fmt.Errorf("format %q: must be %s or %s", o.Format, ONNX, BioImageIO)
	case o.Precision != Float32 && o.Precision != Float16:
		return fmt.Errorf("precision %q: must be %s or %s", o.Precision, Float32, Float16)
	case o.Predict == nil:
		return errors.New("no backend to compare predictions with")
	case o.Format == BioImageIO && o.Precision == Float16:
		return errors.New("a BioImage Model Zoo package has float32 weights")
	case m.Graph.Output.Shape[1] != len(m.ClassNames):
		return fmt.Errorf("%d class names for %d output channels", len(m.ClassNames), m.Graph.Output.Shape[1])
	case !(m.PixelSize >= 0):
		return fmt.Errorf("pixel size %g Å", m.PixelSize)
	case m.License != "" && !isLicense.MatchString(m.License):
		return fmt.Errorf("licence %q is no SPDX identifier, such as MIT or CC-BY-4.0", m.License)
	case o.Format == BioImageIO && (m.License == "" || len(m.Authors) == 0):
		return errors.New("a BioImage Model Zoo package states its licence and authors, which of a network from elsewhere only its user knows: give --license SPDX and --author NAME")
	case m.PixelSize == 0 && o.Format == BioImageIO:
		return errors.New("a BioImage Model Zoo package states the pixel size, which is unknown here (give pixel_size in the spec's [domain.NAME])")
	}
	if m.WeightsDigest == "" {
		m.WeightsDigest = WeightsDigest(m.Graph)
	}
	return nil
}

// write makes one file and its certificate and returns them.
func write(ctx context.Context, path string, m Model, o Options, standardized bool) (Written, error) {
	g := m.Graph.Clone()
	if f, err := g.Field(); err == nil {
		if k := multiple(g, f); k > 1 {
			g.Multiple = k // as the metadata say
		}
	}
	if standardized {
		var err error
		if g, err = Standardize(g); err != nil {
			return Written{}, err
		}
	}
	mo := m.marshalOptions(standardized)
	mo.SamePadding = true
	mo.HalfWeights = o.Precision == Float16
	data, err := onnx.Marshal(g, mo)
	if err != nil {
		return Written{}, err
	}
	// What certifies the model reads it from a file, which is not its own yet.
	dir, err := os.MkdirTemp("", "refocus-export-")
	if err != nil {
		return Written{}, err
	}
	defer os.RemoveAll(dir)
	candidate := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(candidate, data, 0o600); err != nil {
		return Written{}, err
	}
	c := &certifier{model: m, graph: g, options: o, metadata: mo.Metadata, standardized: standardized, half: mo.HalfWeights}
	cert, err := c.certify(ctx, candidate, data)
	if err != nil {
		return Written{}, err
	}
	if err := cert.Err(); err != nil {
		return Written{}, err
	}
	if o.Format == BioImageIO {
		torch, err := c.pyTorch(ctx, dir)
		if err != nil {
			return Written{}, err
		}
		if err := cert.Err(); err != nil {
			return Written{}, err
		}
		if data, err = bioImage(ctx, m, o, data, torch); err != nil {
			return Written{}, err
		}
	}
	cert.File, cert.Bytes, cert.SHA256 = filepath.Base(path), int64(len(data)), files.Sum(data)
	b, err := json.MarshalIndent(cert, "", "  ")
	if err != nil {
		return Written{}, err
	}
	// The certificate first: a model without one would look like another's.
	certPath := path + ".certificate.json"
	if err := files.Write(certPath, append(b, '\n')); err != nil {
		return Written{}, err
	}
	return Written{path, certPath, cert}, files.Write(path, data)
}

// WeightsDigest is the SHA-256 of the names, shapes and bits of the graph's
// parameters and statistics.
func WeightsDigest(g *nn.Graph) string {
	h := sha256.New()
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			fmt.Fprintf(h, "%q %v\n", t.Name, t.Shape)
			binary.Write(h, binary.LittleEndian, t.Data) // a hash does not fail
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func (m *Model) marshalOptions(standardized bool) onnx.MarshalOptions {
	input := "Image [N,1,H,W], zero mean and unit variance"
	if standardized {
		input = "Image [N,1,H,W] as recorded; the network standardises it"
	}
	cite := make([]string, len(m.Cite))
	for i, c := range m.Cite {
		cite[i] = c.Text + " " + c.Address()
	}
	pixel, of := "", "" // unknown
	if m.PixelSize > 0 {
		pixel = decimal(m.PixelSize)
		of = ", of " + pixel + " Å per pixel"
	}
	normalization := "standardize" // as predict.ParsePreparation reads it
	if standardized {
		normalization = "none"
	}
	md := map[string]string{
		"refocus.normalization":       normalization,
		"refocus.study":               m.Study,
		"refocus.spec_digest":         m.SpecDigest,
		"refocus.run_digest":          m.RunDigest,
		"refocus.weights_digest":      m.WeightsDigest,
		"refocus.domain":              m.Domain,
		"refocus.pixel_size_angstrom": pixel,
		"refocus.validation_loss":     decimal(m.ValidationLoss),
		"refocus.classes":             strings.Join(m.ClassNames, ", "),
		"license":                     m.License,
		"citation":                    strings.Join(cite, "; "),
	}
	maps.Copy(md, m.Metadata)
	for k, v := range md {
		if v == "" {
			delete(md, k)
		}
	}
	size := ""
	if f, err := m.Graph.Field(); err == nil {
		k := multiple(m.Graph, f)
		size = fmt.Sprintf(" Heights and widths are multiples of %d; tiles overlap by %d pixels at every side.", k, roundUp(f.Radius, k))
		if k > 1 {
			md["refocus.size_multiple"] = strconv.Itoa(k)
		}
		md["refocus.halo"] = strconv.Itoa(roundUp(f.Radius, k))
	}
	return onnx.MarshalOptions{
		ProducerVersion: m.Version,
		Doc:             strings.TrimSpace(m.Title + ". " + m.Description),
		InputDoc:        input + of + "." + size,
		OutputDoc:       "Probabilities [N,K,H,W] of the classes: " + strings.Join(m.ClassNames, ", "),
		Metadata:        md,
	}
}

func decimal(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// standardizeEpsilon is added to the variance of an image. It has to keep a
// constant image finite and must not matter to any other: images scaled to
// [0,1] have variances down to about 1e-4.
const standardizeEpsilon = 1e-8

// Standardize returns the graph with first nodes that give every image of a
// batch zero mean and unit variance. InstanceNormalization is the one form of
// this that all consumers compute. It stands twice: some subtract the squared
// mean from the mean square in float32, which leaves few digits of an image
// whose mean is a hundred times its contrast; after the first pass the mean is
// near zero and the second pass has all of them.
func Standardize(g *nn.Graph) (*nn.Graph, error) {
	if g.Input.Shape[1] != 1 {
		return nil, fmt.Errorf("standardising images of %d channels is not supported", g.Input.Shape[1])
	}
	h := g.Clone()
	const coarse, fine = "standardize.coarse", "standardize"
	for _, n := range h.Nodes {
		for i, in := range n.Inputs {
			if in == h.Input.Name {
				n.Inputs[i] = fine
			}
		}
	}
	const scale, shift = "standardize.scale", "standardize.shift"
	pass := func(name, input string) *nn.Node {
		return &nn.Node{Name: name, Op: "InstanceNormalization", Inputs: []string{input, scale, shift}, Outputs: []string{name},
			Attrs: nn.Attrs{"epsilon": float32(standardizeEpsilon)}}
	}
	h.Nodes = append([]*nn.Node{pass(coarse, h.Input.Name), pass(fine, coarse)}, h.Nodes...)
	h.Tensors = append(h.Tensors,
		&nn.Tensor{Name: scale, Shape: []int{1}, Data: []float32{1}},
		&nn.Tensor{Name: shift, Shape: []int{1}, Data: []float32{0}})
	h.AssignRoles()
	return h, h.Check()
}

// multiple is what heights and widths of images are multiples of.
func multiple(g *nn.Graph, f nn.Field) int { return nn.LCM(f.Period, max(1, g.Multiple)) }
