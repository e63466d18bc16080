package predict

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// description is what a package of the BioImage Model Zoo says about its model
// (formats 0.4 and 0.5, https://github.com/bioimage-io/spec-bioimage-io). Of an
// ONNX file alone it is empty.
type description struct {
	files fs.FS  // of the package, nil without one
	model string // the ONNX file in it

	preparation *Preparation
	activation  string
	classes     []string
	pixelSize   float64 // Å
	notes       []string

	close func()
}

// Bounds of what is read from a package.
const (
	maxDescription = 1 << 20
	maxModel       = 2 << 30 // ONNX allows no more
	// maxInflation bounds how much larger than in the zip a file of more than freeSize
	// bytes may be. Weights hardly shrink; deflated zeros, a thousandfold, would fill the
	// memory.
	maxInflation = 100
	freeSize     = 64 << 20
)

// describe finds out what path is, and reads its description.
func describe(path string) (*description, error) {
	d := &description{close: func() {}}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		d.files = os.DirFS(path)
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		magic := make([]byte, 4)
		n, _ := io.ReadFull(f, magic)
		if !bytes.Equal(magic[:n], []byte("PK\x03\x04")) {
			f.Close()
			return d, nil
		}
		z, err := zip.NewReader(f, st.Size())
		if err != nil {
			f.Close()
			return nil, err
		}
		d.files, d.close = z, func() { f.Close() }
	}
	if err := d.parse(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// read reads the network and what its file says.
func (d *description) read(path string, o onnx.ReadOptions) (*nn.Graph, onnx.Info, error) {
	if d.files == nil {
		return onnx.ReadFile(path, o)
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return onnx.ReadFile(filepath.Join(path, filepath.FromSlash(d.model)), o)
	}
	data, err := readAll(d.files, d.model, maxModel)
	if err != nil {
		return nil, onnx.Info{}, fmt.Errorf("%s: %w", path, err)
	}
	g, info, err := onnx.Read(data, o)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", path, d.model, err)
	}
	return g, info, err
}

func readAll(files fs.FS, name string, most int64) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := st.Size()
	if size > most {
		return nil, fmt.Errorf("%s has %s, more than %s", name, format.Bytes(size), format.Bytes(most))
	}
	if z, ok := st.Sys().(*zip.FileHeader); ok && size > freeSize && z.UncompressedSize64/maxInflation > z.CompressedSize64 {
		return nil, fmt.Errorf("%s inflates from %s to %s, more than weights do", name, format.Bytes(int64(z.CompressedSize64)), format.Bytes(size))
	}
	return io.ReadAll(io.LimitReader(f, size)) // a zip's file has no other size, or is an error
}

// process is a step of pre- or postprocessing; format 0.4 calls it name, 0.5 id.
type process struct {
	Name, ID string
	Kwargs   struct {
		Mode          string
		Mean, Std     numbers
		Gain, Offset  numbers
		MinPercentile *float64 `yaml:"min_percentile"`
		MaxPercentile *float64 `yaml:"max_percentile"`
		Eps           *float64
		Min, Max      *float64
		Dtype         string
	}
}

// numbers is one number or a list of them.
type numbers []float64

func (n *numbers) UnmarshalYAML(v *yaml.Node) error {
	if v.Kind == yaml.SequenceNode {
		return v.Decode((*[]float64)(n))
	}
	var x float64
	err := v.Decode(&x)
	*n = numbers{x}
	return err
}

// parse reads rdf.yaml or bioimageio.yaml.
func (d *description) parse() error {
	var data []byte
	var name string
	for _, pattern := range []string{"rdf.yaml", "bioimageio.yaml", "*/rdf.yaml", "*/bioimageio.yaml"} {
		found, err := fs.Glob(d.files, pattern)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			continue
		}
		name = found[0]
		if data, err = readAll(d.files, name, maxDescription); err != nil {
			return err
		}
		break
	}
	if data == nil {
		return errors.New("has no rdf.yaml and no bioimageio.yaml, so it is no package of the BioImage Model Zoo")
	}
	var y struct {
		Inputs []struct {
			Preprocessing []process
			Axes          yaml.Node
		}
		Outputs []struct {
			Postprocessing []process
			Axes           yaml.Node
		}
		Weights map[string]struct{ Source string }
	}
	if err := yaml.Unmarshal(data, &y); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w, ok := y.Weights["onnx"]
	if !ok || w.Source == "" {
		var have []string
		for k := range y.Weights {
			have = append(have, k)
		}
		return fmt.Errorf("%s: has no weights in ONNX (%s)", name, strings.Join(have, ", "))
	}
	if d.model = path.Join(path.Dir(name), w.Source); !fs.ValidPath(d.model) {
		return fmt.Errorf("%s: the weights %q are not in the package", name, w.Source)
	}
	if len(y.Inputs) != 1 || len(y.Outputs) < 1 {
		return fmt.Errorf("%s: %d inputs and %d outputs; one input is supported", name, len(y.Inputs), len(y.Outputs))
	}
	if err := d.prepare(y.Inputs[0].Preprocessing); err != nil {
		return fmt.Errorf("%s: preprocessing: %w", name, err)
	}
	if err := d.finish(y.Outputs[0].Postprocessing); err != nil {
		return fmt.Errorf("%s: postprocessing: %w", name, err)
	}
	d.pixelSize = pixelSize(y.Inputs[0].Axes)
	d.classes = channelNames(y.Outputs[0].Axes)
	return nil
}

func (d *description) prepare(list []process) error {
	p := Preparation{}
	var err error
	for _, s := range list {
		k := s.Kwargs
		switch name := s.Name + s.ID; name {
		case "ensure_dtype":
			if k.Dtype != "float32" && k.Dtype != "float64" {
				return fmt.Errorf("%s to %q is not supported", name, k.Dtype)
			}
		case "zero_mean_unit_variance":
			if k.Mode != "fixed" {
				p.steps = append(p.steps, Standardized().steps...)
				if k.Mode == "per_dataset" {
					d.notes = append(d.notes, "the package standardises by the data set; here each image is")
				}
				break
			}
			fallthrough
		case "fixed_zero_mean_unit_variance":
			if len(k.Mean) == 0 || len(k.Std) != len(k.Mean) {
				return fmt.Errorf("%s with %d means and %d standard deviations", name, len(k.Mean), len(k.Std))
			}
			var l []linear
			for i := range k.Mean {
				l = append(l, linear{k.Mean[i], k.Std[i]})
			}
			if p, err = p.fixed(l); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case "scale_linear":
			// gain·x + offset
			var l []linear
			for i := range max(len(k.Gain), len(k.Offset)) {
				gain, offset := 1.0, 0.0
				if len(k.Gain) > 0 {
					gain = k.Gain[min(i, len(k.Gain)-1)]
				}
				if len(k.Offset) > 0 {
					offset = k.Offset[min(i, len(k.Offset)-1)]
				}
				l = append(l, linear{-offset / gain, 1 / gain})
			}
			if l == nil {
				break
			}
			if p, err = p.fixed(l); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case "scale_range":
			low, high, eps := 0.0, 100.0, 1e-6
			for at, v := range map[*float64]*float64{&low: k.MinPercentile, &high: k.MaxPercentile, &eps: k.Eps} {
				if v != nil {
					*at = *v
				}
			}
			if p, err = p.scaled(low, high, eps); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case "clip":
			low, high := math.Inf(-1), math.Inf(1)
			if k.Min != nil {
				low = *k.Min
			}
			if k.Max != nil {
				high = *k.Max
			}
			p = p.with(fmt.Sprintf("clip:%g,%g", low, high), func(im Image) error {
				for i, v := range im.Pixels {
					im.Pixels[i] = float32(min(max(float64(v), low), high))
				}
				return nil
			})
		default:
			return fmt.Errorf("%s is not supported; --normalize says what to do instead", name)
		}
		if p.channels != nil && s.ID+s.Name != list[len(list)-1].ID+list[len(list)-1].Name {
			return errors.New("a step after one with a number for every channel is not supported")
		}
	}
	d.preparation = &p
	return nil
}

// finish reads how the output becomes probabilities.
func (d *description) finish(list []process) error {
	for _, s := range list {
		switch name := s.Name + s.ID; name {
		case "sigmoid":
			d.activation = Sigmoid
		case "softmax":
			d.activation = Softmax
		case "ensure_dtype", "clip":
		default:
			d.notes = append(d.notes, fmt.Sprintf("the package's postprocessing %s is left out", name))
		}
	}
	return nil
}

// axis is one of format 0.5.
type axis struct {
	Type, Unit   string
	Scale        float64
	ChannelNames []string `yaml:"channel_names"`
}

func axes(n yaml.Node) []axis {
	var list []axis
	if n.Kind != yaml.SequenceNode || n.Decode(&list) != nil { // a string in format 0.4
		return nil
	}
	return list
}

// pixelSize is that of square pixels in Å, 0 if the axes do not say.
func pixelSize(n yaml.Node) float64 {
	perUnit := map[string]float64{"nanometer": 10, "angstrom": 1, "micrometer": 1e4, "picometer": 0.01}
	size := 0.0
	for _, a := range axes(n) {
		if a.Type != "space" {
			continue
		}
		s := a.Scale * perUnit[a.Unit]
		if !(s > 0) || s > 1e6 || size > 0 && s != size {
			return 0
		}
		size = s
	}
	return size
}

func channelNames(n yaml.Node) []string {
	for _, a := range axes(n) {
		if a.Type == "channel" {
			return a.ChannelNames
		}
	}
	return nil
}
