package adapt

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// Training says how a model is trained on. The zero value has defaults.
type Training struct {
	Images       int     // simulated, before the eightfold augmentation; 0: 64
	Epochs       int     // 0: 6
	LearningRate float64 // 0: 3e-4
	Batch        int     // 0: 4
}

func (t Training) defaults() Training {
	if t.Images == 0 {
		t.Images = 64
	}
	if t.Epochs == 0 {
		t.Epochs = 6
	}
	if t.LearningRate == 0 {
		t.LearningRate = 3e-4
	}
	if t.Batch == 0 {
		t.Batch = 4
	}
	return t
}

// leastApart in Å: the two defoci that images are simulated at lie at least so far on
// either side of the estimate.
const leastApart = 10

// defoci are the two nominal defoci in Å that images are simulated at: the estimate
// less and more its error, or both sides of focus where the side is not known.
func (e *Estimate) defoci() [2]float64 {
	if e.OtherSide != nil {
		a, b := math.Round(e.Defocus.Value), math.Round(e.OtherSide.Value)
		if math.Abs(a-b) >= leastApart {
			return [2]float64{a, b}
		}
	}
	apart := max(leastApart, math.Round(e.Defocus.Error))
	at := math.Round(e.Defocus.Value)
	return [2]float64{at - apart, at + apart}
}

// leastSpread of the actual defocus in Å, as the study's.
const leastSpread = 15

// Spec is the text of a study of one run: from the weights of the network in file,
// on images under the estimated conditions.
func (m *Model) Spec(e *Estimate, g Given, t Training, name, file string) (string, error) {
	var missing []error
	for _, v := range []struct {
		value      *Value
		name, flag string
	}{{e.PixelSize, "pixel size", "--pixel-size"}, {e.Dose, "dose", "--dose"}, {e.Defocus, "defocus", "--defocus"}} {
		if v.value == nil {
			missing = append(missing, fmt.Errorf("the %s of the micrographs cannot be told and has to be given: %s", v.name, v.flag))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return "", err
	}
	t = t.defaults()
	c, _, err := m.simulation(g)
	if err != nil {
		return "", err
	}
	c, err = atPixel(c, m.target(e))
	if err != nil {
		return "", err
	}
	weights, classes, err := m.start()
	if err != nil {
		return "", err
	}
	d := e.defoci()
	half := max(1, t.Images/2)
	validation := max(8, t.Images/8)
	var b strings.Builder
	line := func(text string, args ...any) { fmt.Fprintf(&b, text+"\n", args...) }
	line("# A model brought to the conditions of micrographs, as 'refocus adapt' estimated them:")
	for _, l := range e.Lines() {
		line("# - %s", strings.ReplaceAll(l, "\n", " "))
	}
	line("# Images are simulated at two defoci, %s and %s, that stand for the estimate.", format.Defocus(d[0]), format.Defocus(d[1]))
	line("# Lengths are in Å, doses in electrons per Å². 'refocus reproduce' runs this file again.")
	line("")
	line("name  = %s", quote(name))
	line("title = %s", quote("Adapted to the conditions of micrographs"))
	line("kind  = \"mixture\" # one stage, from the weights of the network below")
	line("seed  = 1")
	line("")
	line("[network]")
	line("onnx    = %s", quote(file))
	line("weights = %s", quote(weights))
	line("classes = [%s, %s]", quote(classes[0]), quote(classes[1]))
	line("")
	line("[grid]")
	line("crystal           = [%s]", quote(c.Crystal))
	line("defocus           = [%s, %s]", format.Plain(d[0]), format.Plain(d[1]))
	line("dose              = [%s]", format.Plain(e.doseRounded()))
	line("defocus_spread    = %s", format.Plain(math.Round(max(leastSpread, e.Spread))))
	line("train_images      = %d", half)
	line("validation_images = %d", validation)
	line("")
	line("[source]")
	line("defocus = [%s]", format.Plain(d[0]))
	line("")
	line("[mixture]")
	line("epochs         = %d", t.Epochs)
	line("images         = [[%d, %d]]", half, half)
	line("learning_rates = [%s]", format.Plain(t.LearningRate))
	line("")
	line("[training]")
	line("loss            = %s", quote(m.Loss))
	line("batch           = %d", t.Batch)
	line("initialisations = 1")
	line("")
	line("[label_blur]")
	line("%s = %s", c.Crystal, format.Plain(c.LabelBlur))
	line("")
	line("[simulation]")
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Tag.Get("spec") == "-" {
			continue
		}
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		line("%s = %s", key, value(v.Field(i)))
	}
	return b.String(), nil
}

// doseRounded has the digits that an estimate is worth.
func (e *Estimate) doseRounded() float64 {
	d, err := strconv.ParseFloat(strconv.FormatFloat(e.Dose.Value, 'g', 3, 64), 64)
	if err != nil || d <= 0 {
		return e.Dose.Value
	}
	return d
}

// target is the pixel size in Å that images are simulated at: the network's, since
// micrographs are resampled to it, but no smaller than theirs, which resampling
// would not give the details of.
func (m *Model) target(e *Estimate) float64 {
	p := e.PixelSize.Value
	if s := m.Segmenter.PixelSize; s > 0 && p < (1+sameSize)*s {
		return s
	}
	return p
}

// atPixel is a simulation with images of another pixel size and a field about as
// large.
func atPixel(c hrtem.Config, pixel float64) (hrtem.Config, error) {
	if was := c.Cell / float64(c.Output); math.Abs(was/pixel-1) > 1e-6 {
		spacing := c.Cell / float64(c.Grid)
		output := next(c.Cell / pixel)
		cell := float64(output) * pixel
		grid := max(output, next(cell/min(0.25, 1.1*max(spacing, 0.1))))
		crop := max(32, int(math.Round(float64(c.Crop)*was/pixel/16))*16)
		c.Cell, c.Output, c.Grid, c.Crop = cell, output, grid, min(crop, output/16*16)
	}
	var errs []error
	for _, p := range append(c.CheckFields(), c.CheckTogether()...) {
		errs = append(errs, fmt.Errorf("%s %s", p.Key, p.Message))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("images of pixels of %s cannot be simulated: %w", format.PixelSize(pixel), err)
	}
	return c, nil
}

// next is the least number of samples, not fewer than n, that is transformed.
func next(n float64) int {
	for i := max(fft.Lanes, int(math.Ceil(n-1e-6))); ; i++ {
		if fft.Supported(i) || i > 1<<20 {
			return i
		}
	}
}

// quote writes a TOML string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// value writes a number or numbers as TOML.
func value(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	case reflect.Array:
		var list []string
		for i := range v.Len() {
			list = append(list, value(v.Index(i)))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	panic("adapt: no way to write " + v.Type().String())
}

// studyName is a name that specs allow, after a folder's.
func studyName(folder string) string {
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
			return r
		}
		return '-'
	}, folder)
	name = "adapt-" + strings.Trim(name, "-_")
	if name == "adapt-" {
		name = "adapt-model"
	}
	return name[:min(len(name), 64)]
}
