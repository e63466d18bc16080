package export

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/nn"
)

// torchVersion is the PyTorch that the weights and the source are for: the oldest
// that they are tested with.
const torchVersion = "1.13.0"

// torchClass is the class in the source that builds the network.
const torchClass = "Network"

// Names of a package's files for PyTorch.
const (
	torchSource  = "network.py"
	torchWeights = "weights.pt"
)

// torchFiles are the source of a network's class and its state dict.
type torchFiles struct{ source, weights []byte }

func newTorchFiles(m Model, g *nn.Graph) (*torchFiles, error) {
	doc := m.Title + ".\n\nWritten by refocus " + m.Version + " from the trained network; the weights are in " + torchWeights + ".\n"
	t, err := pyTorch(g, doc)
	if err != nil {
		return nil, err
	}
	weights, err := stateDict(t.state, packageTime(m.Finished))
	return &torchFiles{[]byte(t.source), weights}, err
}

// torchModel is a network as PyTorch has it: the source of a class, and the tensors
// of its state dict by name.
type torchModel struct {
	source string
	state  []*nn.Tensor
}

// pyTorch states a network as the source of a torch.nn.Module and its state dict,
// which load_state_dict takes strictly. Layers with weights are modules of their
// node's name, so that the network can be trained on; everything else is a call. An
// error names the first node that has no counterpart in PyTorch.
func pyTorch(g *nn.Graph, doc string) (*torchModel, error) {
	w := &torchWriter{graph: g, names: map[string]bool{}, at: map[string]string{}, uses: map[string]int{g.Output.Name: 1}, owned: map[string]string{}}
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			w.uses[in]++
		}
	}
	w.at[g.Input.Name] = w.take()
	for _, n := range g.Nodes {
		value, err := w.call(n)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		for _, in := range n.Inputs {
			if w.uses[in]--; w.uses[in] == 0 && w.at[in] != "" {
				w.free = append(w.free, w.at[in])
			}
		}
		to := w.take()
		w.at[n.Outputs[0]] = to
		w.forward = append(w.forward, to+" = "+value)
	}
	out := w.at[g.Output.Name]
	if out == "" {
		return nil, fmt.Errorf("output %q is a constant", g.Output.Name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\"\"\"%s\"\"\"\n\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\nclass %s(nn.Module):\n    def __init__(self):\n        super().__init__()\n",
		docstring(doc), torchClass)
	for _, l := range w.init {
		fmt.Fprintf(&b, "        %s\n", l)
	}
	b.WriteString("\n    def forward(self, x):\n")
	for _, l := range w.forward {
		fmt.Fprintf(&b, "        %s\n", l)
	}
	fmt.Fprintf(&b, "        return %s\n", out)
	return &torchModel{b.String(), w.state}, nil
}

// docstring keeps a text from ending its quotes.
func docstring(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `'`).Replace(s)
}

type torchWriter struct {
	graph         *nn.Graph
	init, forward []string
	state         []*nn.Tensor
	names         map[string]bool   // of the module's attributes
	owned         map[string]string // attributes of tensors that are operands
	at            map[string]string // the variable that holds a value
	uses          map[string]int    // how often it is still needed
	free          []string          // variables to be used again
	variables     int
}

// take is a variable that holds nothing that is still needed.
func (w *torchWriter) take() string {
	if len(w.free) > 0 {
		slices.Sort(w.free)
		v := w.free[0]
		w.free = w.free[1:]
		return v
	}
	w.variables++
	if w.variables == 1 {
		return "x"
	}
	return fmt.Sprintf("x%d", w.variables)
}

var (
	notInPython = regexp.MustCompile(`[^A-Za-z0-9_]+`)
	plain       = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
)

// attribute is a name for a module or tensor of the network: the graph's with two
// underscores for a dot. The names of nn.Module's own methods have none of these and
// no number.
func (w *torchWriter) attribute(name string) string {
	s := strings.Trim(notInPython.ReplaceAllString(name, "__"), "_")
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		s = "n" + s
	}
	if plain.MatchString(s) {
		s += "_0"
	}
	for base, i := s, 2; w.names[s]; i++ {
		s = fmt.Sprintf("%s__%d", base, i)
	}
	w.names[s] = true
	return s
}

// module adds a layer with weights, given by their names in its state dict and the
// graph's tensors, and returns its attribute.
func (w *torchWriter) module(n *nn.Node, layer string, weights ...[2]string) (string, error) {
	name := w.attribute(n.Name)
	for _, k := range weights {
		t := w.graph.Tensor(k[1])
		if t == nil || t.Data == nil {
			return "", fmt.Errorf("its %s %q is computed", k[0], k[1])
		}
		w.state = append(w.state, &nn.Tensor{Name: name + "." + k[0], Shape: t.Shape, Data: t.Data, Role: t.Role})
	}
	w.init = append(w.init, fmt.Sprintf("self.%s = %s", name, layer))
	return "self." + name, nil
}

// operand is an expression for a node's input: a variable, a number, or a tensor of
// the network.
func (w *torchWriter) operand(name string) (string, error) {
	t := w.graph.Tensor(name)
	switch {
	case t == nil:
		return w.at[name], nil
	case t.Data == nil:
		return "", fmt.Errorf("input %q holds integers", name)
	case t.Role == nn.Constant && t.Len() == 1 && len(t.Shape) == 0:
		return python(t.Data[0]), nil
	case w.owned[name] == "":
		attr := w.attribute(name)
		w.owned[name] = "self." + attr
		w.state = append(w.state, &nn.Tensor{Name: attr, Shape: t.Shape, Data: t.Data, Role: t.Role})
		make := "self." + attr + " = nn.Parameter(torch.zeros(" + tuple(t.Shape...) + "))"
		if t.Role != nn.Parameter {
			make = "self.register_buffer(" + strconv.Quote(attr) + ", torch.zeros(" + tuple(t.Shape...) + "))"
		}
		w.init = append(w.init, make)
	}
	return w.owned[name], nil
}

// python is a number as Python writes it.
func python(v float32) string {
	switch {
	case math.IsInf(float64(v), 1):
		return `float("inf")`
	case math.IsInf(float64(v), -1):
		return `float("-inf")`
	case v != v:
		return `float("nan")`
	}
	s := strconv.FormatFloat(float64(v), 'g', -1, 32)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

func tuple(v ...int) string {
	s := make([]string, len(v))
	for i := range v {
		s[i] = strconv.Itoa(v[i])
	}
	if len(s) == 1 {
		return "(" + s[0] + ",)"
	}
	return "(" + strings.Join(s, ", ") + ")"
}

func boolean(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// torchFunctions are operators of one image and no attribute.
var torchFunctions = map[string]string{
	"Relu": "F.relu(%s)", "Sigmoid": "torch.sigmoid(%s)", "Tanh": "torch.tanh(%s)", "Softplus": "F.softplus(%s)", "Erf": "torch.erf(%s)",
	"Exp": "torch.exp(%s)", "Log": "torch.log(%s)", "Sqrt": "torch.sqrt(%s)", "Neg": "-%s", "Abs": "torch.abs(%s)",
	"Reciprocal": "torch.reciprocal(%s)", "Round": "torch.round(%s)",
}

// torchReductions are PyTorch's names of ONNX's reductions.
var torchReductions = map[string]string{"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin"}

// call is the expression of a node.
func (w *torchWriter) call(n *nn.Node) (string, error) {
	x, err := w.operand(n.Inputs[0])
	if err != nil {
		return "", err
	}
	if f := torchFunctions[n.Op]; f != "" {
		return fmt.Sprintf(f, x), nil
	}
	switch n.Op {
	case "Conv", "ConvTranspose":
		return w.conv(n, x)
	case "BatchNormalization", "InstanceNormalization":
		return w.normalization(n, x)
	case "MaxPool", "AveragePool":
		return w.pool(n, x)
	case "Resize":
		return w.resize(n, x)
	case "Add", "Sub", "Mul", "Div", "Max", "Min":
		y, err := w.operand(n.Inputs[1])
		if f := map[string]string{"Max": "maximum", "Min": "minimum"}[n.Op]; f != "" {
			return fmt.Sprintf("torch.%s(torch.as_tensor(%s), torch.as_tensor(%s))", f, x, y), err
		}
		return x + map[string]string{"Add": " + ", "Sub": " - ", "Mul": " * ", "Div": " / "}[n.Op] + y, err
	case "Concat":
		parts := make([]string, len(n.Inputs))
		for i, in := range n.Inputs {
			if parts[i], err = w.operand(in); err != nil {
				return "", err
			}
		}
		return "torch.cat([" + strings.Join(parts, ", ") + "], 1)", nil
	case "Softmax":
		return fmt.Sprintf("torch.softmax(%s, %d)", x, n.Attrs.Int("axis", -1)), nil
	case "LogSoftmax":
		return fmt.Sprintf("torch.log_softmax(%s, %d)", x, n.Attrs.Int("axis", -1)), nil
	case "LeakyRelu":
		return fmt.Sprintf("F.leaky_relu(%s, %s)", x, python(n.Attrs.Float("alpha", 0.01))), nil
	case "Elu":
		return fmt.Sprintf("F.elu(%s, %s)", x, python(n.Attrs.Float("alpha", 1))), nil
	case "Selu":
		if n.Attrs["alpha"] == nil && n.Attrs["gamma"] == nil {
			return fmt.Sprintf("F.selu(%s)", x), nil
		}
	case "HardSigmoid":
		return fmt.Sprintf("torch.clamp(%s * %s + %s, 0.0, 1.0)", x, python(n.Attrs.Float("alpha", 0.2)), python(n.Attrs.Float("beta", 0.5))), nil
	case "PRelu":
		slope, err := w.operand(n.Inputs[1])
		return fmt.Sprintf("torch.where(%s >= 0, %s, %s * %s)", x, x, x, slope), err
	case "Clip":
		return w.clip(n, x)
	case "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin":
		axes, err := w.graph.Reduced(n)
		return fmt.Sprintf("%s.%s(%s, keepdim=True)", x, torchReductions[n.Op], tuple(axes...)), err
	case "Pad":
		return w.pad(n, x)
	case "Slice":
		return w.slice(n, x)
	case "Reshape": // to another number of channels, see nn
		k := w.graph.Tensor(n.Inputs[1]).Ints[1]
		return fmt.Sprintf("%s.reshape(%s.shape[0], %d, -1, %s.shape[3])", x, x, k, x), nil
	case "DepthToSpace":
		if n.Attrs.Str("mode", "DCR") == "CRD" {
			return fmt.Sprintf("F.pixel_shuffle(%s, %d)", x, n.Attrs.Int("blocksize", 0)), nil
		}
	}
	return "", fmt.Errorf("is not stated in PyTorch")
}

// padding splits a window's padding into what PyTorch's layer does, the same on
// both sides, and an expression that does the rest before it. Pooling takes at most
// half a kernel.
func padding(n *nn.Node, x string, most []int, fill string) (before string, pads []int) {
	p := n.Attrs.Ints("pads", 0, 0, 0, 0)
	if p[0] == p[2] && p[1] == p[3] && (most == nil || p[0] <= most[0]/2 && p[1] <= most[1]/2) {
		return x, p[:2]
	}
	return fmt.Sprintf("F.pad(%s, %s, value=%s)", x, tuple(p[1], p[3], p[0], p[2]), fill), []int{0, 0}
}

func (w *torchWriter) conv(n *nn.Node, x string) (string, error) {
	t := w.graph.Tensor(n.Inputs[1])
	if t == nil {
		return "", fmt.Errorf("its weight %q is computed", n.Inputs[1])
	}
	groups, bias := n.Attrs.Int("group", 1), len(n.Inputs) > 2 && n.Inputs[2] != ""
	layer, in, out, after := "Conv2d", t.Shape[1]*groups, t.Shape[0], ""
	pads := n.Attrs.Ints("pads", 0, 0, 0, 0)
	if n.Op == "ConvTranspose" {
		layer, in, out = "ConvTranspose2d", t.Shape[0], t.Shape[1]*groups
		if pads[0] != pads[2] || pads[1] != pads[3] { // padding crops its output
			end := func(p int) string {
				if p == 0 {
					return ""
				}
				return strconv.Itoa(-p)
			}
			after = fmt.Sprintf("[:, :, %d:%s, %d:%s]", pads[0], end(pads[2]), pads[1], end(pads[3]))
			pads = []int{0, 0}
		}
	} else {
		x, pads = padding(n, x, nil, "0.0")
	}
	weights := [][2]string{{"weight", n.Inputs[1]}}
	if bias {
		weights = append(weights, [2]string{"bias", n.Inputs[2]})
	}
	args := fmt.Sprintf("%d, %d, %s", in, out, tuple(t.Shape[2:]...))
	for _, k := range []struct {
		name       string
		value, def []int
	}{
		{"stride", n.Attrs.Ints("strides", 1, 1), []int{1, 1}}, {"padding", pads[:2], []int{0, 0}},
		{"output_padding", n.Attrs.Ints("output_padding", 0, 0), []int{0, 0}}, {"dilation", n.Attrs.Ints("dilations", 1, 1), []int{1, 1}},
	} {
		if !slices.Equal(k.value, k.def) {
			args += ", " + k.name + "=" + tuple(k.value...)
		}
	}
	if groups != 1 {
		args += fmt.Sprintf(", groups=%d", groups)
	}
	if !bias {
		args += ", bias=False"
	}
	m, err := w.module(n, "nn."+layer+"("+args+")", weights...)
	return m + "(" + x + ")" + after, err
}

func (w *torchWriter) normalization(n *nn.Node, x string) (string, error) {
	t := w.graph.Tensor(n.Inputs[1])
	if t == nil {
		return "", fmt.Errorf("its scale %q is computed", n.Inputs[1])
	}
	weights := [][2]string{{"weight", n.Inputs[1]}, {"bias", n.Inputs[2]}}
	epsilon := python(n.Attrs.Float("epsilon", 1e-5))
	layer := fmt.Sprintf("nn.InstanceNorm2d(%d, eps=%s, affine=True)", t.Len(), epsilon)
	if n.Op == "BatchNormalization" {
		weights = append(weights, [2]string{"running_mean", n.Inputs[3]}, [2]string{"running_var", n.Inputs[4]})
		momentum := math.Round(1e6*(1-float64(n.Attrs.Float("momentum", 0.9)))) / 1e6 // as it was before the subtraction in float32
		layer = fmt.Sprintf("nn.BatchNorm2d(%d, eps=%s, momentum=%s)", t.Len(), epsilon, python(float32(momentum)))
	}
	m, err := w.module(n, layer, weights...)
	return m + "(" + x + ")", err
}

func (w *torchWriter) pool(n *nn.Node, x string) (string, error) {
	kernel := n.Attrs.Ints("kernel_shape")
	strides, dilations := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("dilations", 1, 1)
	if n.Attrs.Int("ceil_mode", 0) != 0 {
		return "", fmt.Errorf("ceil_mode is not stated in PyTorch")
	}
	if n.Op == "MaxPool" {
		x, pads := padding(n, x, kernel, `float("-inf")`)
		return fmt.Sprintf("F.max_pool2d(%s, %s, %s, %s, %s)", x, tuple(kernel...), tuple(strides...), tuple(pads...), tuple(dilations...)), nil
	}
	counted := n.Attrs.Int("count_include_pad", 0) == 1
	before, pads := padding(n, x, kernel, "0.0")
	if before != x && !counted {
		return "", fmt.Errorf("pads %v are not stated in PyTorch", n.Attrs.Ints("pads"))
	}
	return fmt.Sprintf("F.avg_pool2d(%s, %s, %s, %s, count_include_pad=%s)", before, tuple(kernel...), tuple(strides...), tuple(pads...), boolean(counted)), nil
}

func (w *torchWriter) resize(n *nn.Node, x string) (string, error) {
	scales := w.graph.Tensor(n.Inputs[len(n.Inputs)-1]).Data[2:]
	mode, place := n.Attrs.Str("mode", "nearest"), n.Attrs.Str("coordinate_transformation_mode", "half_pixel")
	rounding := n.Attrs.Str("nearest_mode", "round_prefer_floor")
	factors := python(scales[0]) + ", " + python(scales[1])
	whole := true
	for _, s := range scales {
		whole = whole && s >= 1 && s == float32(int(s))
	}
	halves := place == "half_pixel" || place == "pytorch_half_pixel"
	switch {
	case mode == "nearest" && whole && (place == "asymmetric" && rounding == "floor" || halves && strings.HasPrefix(rounding, "round")):
		return fmt.Sprintf("F.interpolate(%s, scale_factor=(%s), mode=\"nearest\")", x, factors), nil
	case mode == "linear" && whole && (halves || place == "align_corners"),
		mode == "cubic" && whole && (halves || place == "align_corners") && n.Attrs.Float("cubic_coeff_a", -0.75) == -0.75 && n.Attrs.Int("exclude_outside", 0) == 0:
		return fmt.Sprintf("F.interpolate(%s, scale_factor=(%s), mode=%q, align_corners=%s)", x, factors, "bi"+mode, boolean(!halves)), nil
	}
	return "", fmt.Errorf("mode %s, %s, scales %v is not stated in PyTorch", mode, place, scales)
}

func (w *torchWriter) clip(n *nn.Node, x string) (string, error) {
	bounds := []string{"None", "None"}
	for i, in := range n.Inputs[1:] {
		if in == "" {
			continue
		}
		var err error
		if bounds[i], err = w.operand(in); err != nil {
			return "", err
		}
	}
	if bounds[0] == "None" && bounds[1] == "None" {
		return x, nil
	}
	return fmt.Sprintf("torch.clamp(%s, %s, %s)", x, bounds[0], bounds[1]), nil
}

func (w *torchWriter) pad(n *nn.Node, x string) (string, error) {
	before, after, err := w.graph.Pads(n)
	if err != nil {
		return "", err
	}
	mode := map[string]string{"constant": "constant", "reflect": "reflect", "edge": "replicate"}[n.Attrs.Str("mode", "constant")]
	list := []int{before[3], after[3], before[2], after[2]}
	if mode == "constant" {
		list = append(list, before[1], after[1])
	}
	value := ""
	if mode == "constant" && len(n.Inputs) > 2 && n.Inputs[2] != "" {
		v, err := w.operand(n.Inputs[2])
		if err != nil {
			return "", err
		}
		value = ", value=" + v
	} else if mode != "constant" && slices.Min(list) < 0 {
		return "", fmt.Errorf("cropping in mode %q is not stated in PyTorch", n.Attrs.Str("mode", ""))
	}
	return fmt.Sprintf("F.pad(%s, %s, mode=%q%s)", x, tuple(list...), mode, value), nil
}

func (w *torchWriter) slice(n *nn.Node, x string) (string, error) {
	var p [4][]int64
	for i := range p {
		if 1+i < len(n.Inputs) {
			p[i] = w.graph.Tensor(n.Inputs[1+i]).Ints
		}
	}
	at := []string{":", ":", ":", ":"}
	for i, axis := range p[2] {
		end := ""
		if p[1][i] < math.MaxInt32 {
			end = strconv.FormatInt(p[1][i], 10)
		}
		at[axis] = strconv.FormatInt(p[0][i], 10) + ":" + end
		if p[3] != nil && p[3][i] != 1 {
			at[axis] += ":" + strconv.FormatInt(p[3][i], 10)
		}
	}
	return x + "[" + strings.Join(at, ", ") + "]", nil
}

// Instructions of Python's pickle machine, protocol 2 (PEP 307).
const (
	pickleProto      = "\x80\x02"
	pickleGlobal     = 'c'
	pickleMark       = '('
	pickleTuple      = 't'
	pickleEmptyTuple = ')'
	pickleReduce     = 'R'
	pickleSetItems   = 'u'
	pickleUnicode    = 'X'
	pickleInt        = 'J'
	pickleLong       = 0x8a
	pickleFalse      = 0x89
	picklePersistent = 'Q'
	pickleStop       = '.'
)

// stateDict is the file that torch.save writes of a state dict: a zip of a pickle
// of the tensors' names, shapes and places, and of their numbers, little-endian,
// each a file that begins at a multiple of 64 bytes. It asks for nothing that
// torch.load refuses with weights_only. Nothing is compressed.
func stateDict(tensors []*nn.Tensor, modified time.Time) ([]byte, error) {
	p := []byte(pickleProto)
	global := func(name string) {
		p = append(append(p, pickleGlobal), name+"\n"...)
	}
	text := func(s string) {
		p = append(binary.LittleEndian.AppendUint32(append(p, pickleUnicode), uint32(len(s))), s...)
	}
	number := func(v int) {
		if v == int(int32(v)) {
			p = binary.LittleEndian.AppendUint32(append(p, pickleInt), uint32(v))
		} else {
			p = binary.LittleEndian.AppendUint64(append(p, pickleLong, 8), uint64(v))
		}
	}
	dict := func() {
		global("collections\nOrderedDict")
		p = append(p, pickleEmptyTuple, pickleReduce)
	}
	dict()
	p = append(p, pickleMark)
	for i, t := range tensors {
		text(t.Name)
		global("torch._utils\n_rebuild_tensor_v2")
		p = append(p, pickleMark, pickleMark)
		text("storage")
		global("torch\nFloatStorage")
		text(strconv.Itoa(i))
		text("cpu")
		number(t.Len())
		p = append(p, pickleTuple, picklePersistent)
		number(0) // offset in the storage
		p = append(p, pickleMark)
		for _, d := range t.Shape {
			number(d)
		}
		p = append(p, pickleTuple, pickleMark)
		for d := range t.Shape {
			number(nn.Size(t.Shape[d+1:])) // strides
		}
		p = append(p, pickleTuple, pickleFalse) // asks for no gradient
		dict()                                  // no hooks
		p = append(p, pickleTuple, pickleReduce)
	}
	p = append(p, pickleSetItems, pickleStop)

	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) error {
		h := &zip.FileHeader{Name: "weights/" + name, Method: zip.Store, Modified: modified}
		const head, extended, field, align = 30, 9, 4, 64 // of a local header, of its time, of the padding
		if err := z.Flush(); err != nil {
			return err
		}
		at := b.Len() + head + len(h.Name) + extended + field
		pad := (align - at%align) % align
		h.Extra = append([]byte{'F', 'B', byte(pad), 0}, make([]byte, pad)...)
		f, err := z.CreateHeader(h)
		if err == nil {
			_, err = f.Write(data)
		}
		return err
	}
	err := add("data.pkl", p)
	if err == nil {
		err = add("byteorder", []byte("little"))
	}
	for i, t := range tensors {
		data := make([]byte, 0, 4*t.Len())
		for _, v := range t.Data {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
		if err == nil {
			err = add("data/"+strconv.Itoa(i), data)
		}
	}
	if err == nil {
		err = add("version", []byte("3\n"))
	}
	if err == nil {
		err = z.Close()
	}
	return b.Bytes(), err
}
