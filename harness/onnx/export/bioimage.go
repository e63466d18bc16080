package export

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/nn"
)

// formatVersion is the version of the BioImage Model Zoo's description.
// https://bioimage-io.github.io/spec-bioimage-io/
const formatVersion = "0.5.4"

// preprocessEpsilon is the zoo's zero_mean_unit_variance: (x−mean)/(std+eps).
const preprocessEpsilon = 1e-6

// formatVersion04 is the version before, which QuPath, deepImageJ and Icy look for.
const formatVersion04 = "0.4.10"

// bioImage wraps the ONNX model in a BioImage Model Zoo package: a zip of the
// description in both formats (bioimageio.yaml and rdf.yaml), the weights, the same and
// the network's source for PyTorch, a test input with its output, the same two as images
// that people can open, a cover image and a README. Nothing is compressed, so that
// the bytes do not depend on a compressor's version.
func bioImage(ctx context.Context, m Model, o Options, model []byte, torch *torchFiles) ([]byte, error) {
	field, err := m.Graph.Field()
	if err != nil {
		return nil, fmt.Errorf("a package states the receptive field: %w", err)
	}
	p := &bioPackage{model: m, torch: torch != nil, step: field.Period, halo: roundUp(field.Radius, field.Period)}
	// some of the output must be left after the halo is taken off
	p.min = 2*p.halo + field.Period
	for i := 2; i < 4; i++ {
		if m.Graph.Input.Shape[i] != 0 {
			return nil, fmt.Errorf("the network takes images of one size; a package is for any size")
		}
	}
	input, standard := p.testInput()
	output, err := o.Predict(ctx, m.Graph, standard)
	if err != nil {
		return nil, fmt.Errorf("predicting with the backend: %w", err)
	}
	type file struct {
		name string
		data []byte
	}
	entries := []file{{"weights.onnx", model}}
	if torch != nil {
		entries = append(entries, file{torchWeights, torch.weights}, file{torchSource, torch.source})
	}
	for _, x := range []struct {
		name string
		Tensor
	}{{"input", input}, {"output", output}} {
		var test, sample bytes.Buffer
		if err := imagefile.WriteNPY(&test, x.Shape, x.Data); err != nil {
			return nil, err
		}
		h, w := x.Shape[2], x.Shape[3]
		pages := slices.Collect(slices.Chunk(x.Data, h*w)) // the channels
		if err := imagefile.WriteTIFF(&sample, h, w, m.PixelSize, pages...); err != nil {
			return nil, err
		}
		entries = append(entries, file{"test_" + x.name + ".npy", test.Bytes()}, file{"sample_" + x.name + ".tif", sample.Bytes()})
	}
	picture, err := cover(standard, output)
	if err != nil {
		return nil, err
	}
	entries = append(entries, file{"cover.png", picture}, file{"README.md", []byte(p.readme())})
	sum := map[string]string{}
	for _, f := range entries {
		sum[f.name] = files.Sum(f.data)
	}
	entries = append(entries, file{"rdf.yaml", []byte(p.description04(sum))}, file{"bioimageio.yaml", []byte(p.description(sum))})

	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range entries {
		f := entries[(i+len(entries)-1)%len(entries)] // the description first
		w, err := z.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Store, Modified: p.time()})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func roundUp(n, step int) int { return (n + step - 1) / step * step }

type bioPackage struct {
	model           Model
	torch           bool // has weights for PyTorch
	step, halo, min int
}

// time is the model's; a zip holds times from 1980 on.
func (p *bioPackage) time() time.Time { return packageTime(p.model.Finished) }

func packageTime(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}

// testInput is the example as a camera might have recorded it, mirrored at its
// borders to the smallest size the description allows, and the same after the
// preprocessing that the description states.
func (p *bioPackage) testInput() (raw, standard Tensor) {
	shape := []int{1, 1, p.min, p.min + p.step}
	x := p.model.Example
	if x.Data == nil {
		x = synthetic(shape)
	}
	h, w := x.Shape[2], x.Shape[3]
	raw = Tensor{shape, make([]float32, shape[2]*shape[3])}
	for i := range raw.Data {
		v := x.Data[pixels.Mirror(i/shape[3], h)*w+pixels.Mirror(i%shape[3], w)]
		raw.Data[i] = 1000 + 100*v
	}
	mean, variance := pixels.Moments(raw.Data)
	std := math.Sqrt(variance) + preprocessEpsilon
	standard = Tensor{shape, make([]float32, len(raw.Data))}
	for i, v := range raw.Data {
		standard.Data[i] = float32((float64(v) - mean) / std)
	}
	return raw, standard
}

// description is bioimageio.yaml. Strings are written in double quotes with
// Go's escapes, which YAML shares.
func (p *bioPackage) description(sum map[string]string) string {
	m := p.model
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	file := func(indent, key, name string) {
		line("%s%s:", indent, key)
		line("%s  source: %s", indent, name)
		line("%s  sha256: %s", indent, sum[name])
	}
	scale := decimal(m.PixelSize / 10)
	p.head(line, formatVersion)
	line("inputs:")
	line("  - id: image")
	line("    description: %s", strconv.Quote("HRTEM image of "+decimal(m.PixelSize)+" Å per pixel"))
	line("    axes:")
	line("      - type: batch")
	line("      - type: channel")
	line("        channel_names: [intensity]")
	for _, axis := range []string{"y", "x"} {
		line("      - type: space")
		line("        id: %s", axis)
		line("        size: {min: %d, step: %d}", p.min, p.step)
		line("        unit: nanometer")
		line("        scale: %s", scale)
	}
	line("    data: {type: float32}")
	file("    ", "test_tensor", "test_input.npy")
	file("    ", "sample_tensor", "sample_input.tif")
	line("    preprocessing:")
	line("      - id: ensure_dtype")
	line("        kwargs: {dtype: float32}")
	line("      - id: zero_mean_unit_variance")
	line("        kwargs: {axes: [channel, y, x], eps: 1.0e-6}")
	line("outputs:")
	line("  - id: probabilities")
	line("    description: Probability of every class")
	line("    axes:")
	line("      - type: batch")
	line("      - type: channel")
	line("        channel_names: [%s]", strings.Join(identifiers(m.ClassNames), ", "))
	for _, axis := range []string{"y", "x"} {
		line("      - type: space")
		line("        id: %s", axis)
		line("        size: {tensor_id: image, axis_id: %s}", axis)
		line("        halo: %d", p.halo)
		line("        unit: nanometer")
		line("        scale: %s", scale)
	}
	line("    data: {type: float32, range: [0.0, 1.0]}")
	file("    ", "test_tensor", "test_output.npy")
	file("    ", "sample_tensor", "sample_output.tif")
	line("weights:")
	line("  onnx:")
	line("    source: weights.onnx")
	line("    sha256: %s", sum["weights.onnx"])
	line("    opset_version: %d", nn.Opset)
	if p.torch {
		line("  pytorch_state_dict:")
		line("    source: %s", torchWeights)
		line("    sha256: %s", sum[torchWeights])
		line("    parent: onnx")
		line("    pytorch_version: %s", torchVersion)
		line("    architecture:")
		line("      source: %s", torchSource)
		line("      sha256: %s", sum[torchSource])
		line("      callable: %s", torchClass)
	}
	p.config(line)
	return b.String()
}

// description04 is rdf.yaml, the same in the format before.
func (p *bioPackage) description04(sum map[string]string) string {
	m := p.model
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p.head(line, formatVersion04)
	line("inputs:")
	line("  - name: image")
	line("    description: %s", strconv.Quote("HRTEM image of "+decimal(m.PixelSize)+" Å per pixel"))
	line("    axes: bcyx")
	line("    data_type: float32")
	line("    data_range: [-.inf, .inf]")
	line("    shape: {min: [1, 1, %d, %d], step: [0, 0, %d, %d]}", p.min, p.min, p.step, p.step)
	line("    preprocessing:")
	line("      - name: zero_mean_unit_variance")
	line("        kwargs: {mode: per_sample, axes: cyx, eps: 1.0e-6}")
	line("outputs:")
	line("  - name: probabilities")
	line("    description: Probability of every class")
	line("    axes: bcyx")
	line("    data_type: float32")
	line("    data_range: [0.0, 1.0]")
	line("    shape: {reference_tensor: image, scale: [1.0, %d.0, 1.0, 1.0], offset: [0, 0, 0, 0]}", len(m.ClassNames))
	line("    halo: [0, 0, %d, %d]", p.halo, p.halo)
	line("test_inputs: [test_input.npy]")
	line("test_outputs: [test_output.npy]")
	line("sample_inputs: [sample_input.tif]")
	line("sample_outputs: [sample_output.tif]")
	line("weights:")
	line("  onnx:")
	line("    source: weights.onnx")
	line("    sha256: %s", sum["weights.onnx"])
	line("    opset_version: %d", nn.Opset)
	if p.torch {
		line("  pytorch_state_dict:")
		line("    source: %s", torchWeights)
		line("    sha256: %s", sum[torchWeights])
		line("    parent: onnx")
		line("    pytorch_version: %s", torchVersion)
		line("    architecture: %s:%s", torchSource, torchClass)
		line("    architecture_sha256: %s", sum[torchSource])
	}
	p.config(line)
	return b.String()
}

// head writes what both formats have.
func (p *bioPackage) head(line func(format string, args ...any), version string) {
	m := p.model
	line("format_version: %s", version)
	line("type: model")
	line("name: %s", strconv.Quote(name(m.Title)))
	line("description: %s", strconv.Quote(m.Description))
	line("timestamp: %s", strconv.Quote(p.time().Format(time.RFC3339)))
	line("license: %s", m.License)
	line("authors:")
	for _, a := range m.Authors {
		line("  - name: %s", strconv.Quote(a))
	}
	if len(m.Maintainers) > 0 {
		line("maintainers:")
	}
	for _, u := range m.Maintainers {
		line("  - github_user: %s", strconv.Quote(u))
	}
	if len(m.Cite) > 0 {
		line("cite:")
	}
	for _, c := range m.Cite {
		line("  - text: %s", strconv.Quote(c.Text))
		if c.DOI != "" {
			line("    doi: %s", strconv.Quote(c.DOI))
		} else {
			line("    url: %s", strconv.Quote(c.URL))
		}
	}
	line("tags: [electron-microscopy, hrtem, nanoparticles, segmentation, semantic-segmentation, unet, onnx, 2d]")
	line("documentation: README.md")
	line("covers: [cover.png]")
}

// config writes what only refocus asks for.
func (p *bioPackage) config(line func(format string, args ...any)) {
	m := p.model
	line("config:")
	line("  refocus:")
	for _, kv := range [][2]string{{"study", m.Study}, {"spec_digest", m.SpecDigest}, {"run_digest", m.RunDigest},
		{"weights_digest", m.WeightsDigest}, {"domain", m.Domain}, {"validation_loss", decimal(m.ValidationLoss)}} {
		line("    %s: %s", kv[0], strconv.Quote(kv[1]))
	}
}

var unnameable = regexp.MustCompile(`[^A-Za-z0-9 _+()-]+`)

// name keeps to the characters that the zoo allows in a model's name, and to
// whole words, at most 64 characters as it recommends.
func name(title string) string {
	s := strings.NewReplacer("−", "-", "–", "-", "—", "-", ",", "", "e⁻/Å²", "e per A2", "Å", "A", "/", "-", ".", "_").Replace(title)
	s = strings.Join(strings.Fields(unnameable.ReplaceAllString(s, " ")), " ")
	const most = 64
	if len(s) <= most {
		return s
	}
	if i := strings.LastIndexByte(s[:most+1], ' '); i > 0 {
		return s[:i]
	}
	return s[:most]
}

var notIdentifier = regexp.MustCompile(`[^a-z0-9]+`)

// identifiers turns class names into the identifiers that the zoo asks for.
func identifiers(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.Trim(notIdentifier.ReplaceAllString(strings.ToLower(n), "_"), "_")
		if out[i] == "" || out[i][0] >= '0' && out[i][0] <= '9' {
			out[i] = "class_" + out[i]
		}
	}
	return out
}

func (p *bioPackage) readme() string {
	m := p.model
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# %s\n\n%s\n", m.Title, m.Description)
	line("## Use\n")
	line("The input is one HRTEM image with one channel and %s Å (%s nm) per pixel; the preprocessing in the", decimal(m.PixelSize), decimal(m.PixelSize/10))
	line("description gives it zero mean and unit variance. The output holds the probability of every class")
	line("(%s) at every pixel. Heights and widths are multiples of %d. A pixel of the", strings.Join(m.ClassNames, ", "), p.step)
	line("output depends on the input within %d pixels of it; tiles need that much overlap.\n", p.halo)
	line("**Programs that cut images into tiles must not normalise every tile.** QuPath does, and a tile of")
	line("carbon alone then looks like one full of particles; in a test two thirds of a mask changed. There, make")
	line("tiles as large as the image, or normalise the image before. deepImageJ, Icy and bioimageio.core")
	line("normalise the image that they are given as a whole.\n")
	line("An image of another pixel size should be resampled first: the network knows atoms and particles")
	line("by their size in pixels.\n")
	line("## Training\n")
	line("Trained by refocus %s for the study %q on the domain %q. Validation loss %.4g.\n", m.Version, m.Study, m.Domain, m.ValidationLoss)
	line("| digest | SHA-256 |\n|---|---|\n| specification | `%s` |\n| run | `%s` |\n| weights | `%s` |\n", m.SpecDigest, m.RunDigest, m.WeightsDigest)
	line("# Validation\n")
	v := m.Validation
	if v == "" {
		v = "The validation loss above is the mean over images of structures that the network has not seen."
	}
	line("%s\n\nThe package's test output was computed by the backend that trained the network;", v)
	line("`bioimageio test` runs the ONNX weights on the test input and compares. The sample images")
	line("hold the same two as TIFF, the output's classes one after the other.\n")
	line("## Licence and citation\n\n%s.\n", m.License)
	for _, c := range m.Cite {
		line("- %s %s", c.Text, c.Address())
	}
	return b.String()
}

// cover shows the middle of the test image, as it is and with the segmentation
// over it, 2:1.
func cover(x, y Tensor) ([]byte, error) {
	const side = 256
	h, w := x.Shape[2], x.Shape[3]
	n := min(side, h, w)
	top, left := (h-n)/2, (w-n)/2
	img := image.NewNRGBA(image.Rect(0, 0, 2*side, side))
	classes := y.Shape[1]
	for r := range side {
		for c := range side {
			at := (top+r*n/side)*w + left + c*n/side
			// ±2.5 standard deviations span the grey values
			g := uint8(255 * min(max((x.Data[at]+2.5)/5, 0), 1))
			img.SetNRGBA(c, r, color.NRGBA{g, g, g, 255})
			p := 1 - y.Data[at] // of anything but background
			if classes == 1 {
				p = y.Data[at]
			}
			p = min(max(p, 0), 1) * 0.6
			mix := func(over float32) uint8 { return uint8(float32(g)*(1-p) + over*p) }
			img.SetNRGBA(side+c, r, color.NRGBA{mix(255), mix(140), mix(0), 255})
		}
	}
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}
