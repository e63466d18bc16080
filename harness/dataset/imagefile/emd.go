package imagefile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// axis is what a file says of a dimension of an array.
type axis struct {
	name, unit string
	scale      float64
}

// axesOf looks for the dimensions of an array where HyperSpy (groups axis-0, …
// beside it), NCEM's EMD format (vectors dim1, …) and NeXus (vectors that the
// group names) keep them. Without, it returns none.
func (h *hdf5) axesOf(root int64, a hdf5Array) (axes []axis, origin string) {
	dir := path.Dir(a.name)
	for d := range a.dims {
		messages, err := h.lookup(root, fmt.Sprintf("%s/axis-%d", dir, d))
		if err != nil {
			break
		}
		v := h.attributes(messages)
		axes = append(axes, axis{v["name"].text(), v["units"].text(), v["scale"].number})
	}
	if len(axes) == len(a.dims) {
		return axes, "HyperSpy axes"
	}
	axes = nil
	for d := range a.dims {
		x, err := h.vector(root, fmt.Sprintf("%s/dim%d", dir, d+1))
		if err != nil {
			break
		}
		axes = append(axes, x)
	}
	if len(axes) == len(a.dims) {
		return axes, "EMD dimension vectors"
	}
	axes = nil
	messages, err := h.lookup(root, dir)
	if err != nil {
		return nil, ""
	}
	names := h.attributes(messages)["axes"].texts
	if len(names) != len(a.dims) {
		return nil, ""
	}
	for _, n := range names {
		x, err := h.vector(root, dir+"/"+n)
		if err != nil {
			x = axis{} // "." stands for an axis without coordinates
		}
		axes = append(axes, x)
	}
	return axes, "NeXus axes"
}

// orient reads the order of rows and columns from the names of the axes: programs
// that count x first write the columns of an image before its rows.
func (a *hdf5Array) orient(named []axis) {
	x, y := -1, -1
	for d, v := range named {
		switch name := strings.ToLower(v.name); {
		case name == "x" || strings.HasSuffix(name, "_x"):
			x = d
		case name == "y" || strings.HasSuffix(name, "_y"):
			y = d
		}
	}
	if x < 0 || y < 0 || len(a.dims) < 2 || len(a.dims) > 3 {
		return
	}
	image := -1
	if len(a.dims) == 3 {
		image = 3 - x - y
	}
	a.axes, a.err = axes{image, y, x}, nil
}

// calibrateAxes takes the pixel size from the axes of an array.
func (f *Info) calibrateAxes(a hdf5Array, axes []axis, origin string) {
	if len(axes) == 0 {
		return
	}
	x, y := axes[a.axes.column], axes[a.axes.row]
	sx, sy, unit := sameUnit(x.scale, y.scale, x.unit, y.unit)
	f.calibrate(sx, sy, unit, origin)
}

// velox is what Velox says of an image in the text beside it.
type velox struct {
	BinaryResult struct {
		Detector  string
		PixelSize struct {
			Width, Height float64 `json:",string"`
		}
		PixelUnitX, PixelUnitY string
	}
	CustomProperties map[string]struct{ Value any }
}

// info is what the text says of an image.
func (v velox) info(f *Info) {
	const origin = "Velox metadata"
	b := v.BinaryResult
	f.Detector = b.Detector
	x, y, unit := sameUnit(b.PixelSize.Width, b.PixelSize.Height, cmp.Or(b.PixelUnitX, "m"), cmp.Or(b.PixelUnitY, "m"))
	f.calibrate(x, y, unit, origin)
	property := func(name string) float64 {
		x, _ := strconv.ParseFloat(fmt.Sprint(v.CustomProperties["Detectors["+b.Detector+"]."+name].Value), 64)
		return x
	}
	if perCount := property("CountsToElectrons"); perCount > 0 {
		f.electrons = electrons{scale: perCount * cmp.Or(property("PixelValueToCameraCounts"), 1), origin: "mean of the pixels in electrons (" + origin + ")"}
	}
}

// velox reads the text beside an image; a damaged one says nothing.
func (h *hdf5) velox(root int64, name string) velox {
	var v velox
	if text, err := h.veloxMetadata(root, path.Dir(name)+"/Metadata"); err == nil {
		if json.Unmarshal(text, &v) != nil {
			return velox{}
		}
	}
	return v
}

// vector reads the first step and the unit of a vector of coordinates.
func (h *hdf5) vector(root int64, name string) (axis, error) {
	messages, err := h.lookup(root, name)
	if err != nil {
		return axis{}, err
	}
	step, err := h.scale(messages)
	if err != nil {
		return axis{}, err
	}
	v := h.attributes(messages)
	return axis{v["name"].text(), v["units"].text(), step}, nil
}

// scale reads the step between the first two coordinates of a vector.
func (h *hdf5) scale(messages []message) (float64, error) {
	kind, layout := find(messages, msgDatatype), find(messages, msgLayout)
	if kind == nil || layout == nil {
		return 0, errors.New("no vector")
	}
	e, err := datatype(kind.data, 0)
	if err != nil {
		return 0, err
	}
	c := &cursor{b: layout.data}
	if version, class := c.int(1), c.int(1); version < 3 || class != 1 {
		return 0, errors.New("a vector that is not contiguous")
	}
	b, err := h.bytes(h.address(c), int64(2*e.size))
	if err != nil {
		return 0, err
	}
	return float64(e.value(b[e.size:])) - float64(e.value(b)), nil
}

// veloxMetadata is the JSON of the first frame: column 0 of an array of bytes,
// padded with zeros.
func (h *hdf5) veloxMetadata(root int64, name string) ([]byte, error) {
	messages, err := h.lookup(root, name)
	if err != nil {
		return nil, err
	}
	space := find(messages, msgDataspace)
	if space == nil {
		return nil, errors.New("no array")
	}
	dims, most, err := h.resizable(space.data)
	if err != nil || len(dims) != 2 {
		return nil, errors.New("no table of bytes")
	}
	s, err := h.stack(hdf5Array{name: name, messages: messages, dims: dims, most: most, axes: axes{-1, 0, 1}})
	if err != nil {
		return nil, err
	}
	pixels := make([]float32, s.H*s.W)
	if err := s.At(0, pixels); err != nil {
		return nil, err
	}
	text := make([]byte, s.H)
	for i := range text {
		text[i] = byte(pixels[i*s.W])
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return text, nil
}

// lookup reads the header of the object at a path.
func (h *hdf5) lookup(root int64, name string) ([]message, error) {
	messages, err := h.header(root)
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if err != nil {
			return nil, err
		}
		links, err := h.links(messages)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(links, func(l link) bool { return l.name == part })
		if i < 0 {
			return nil, fmt.Errorf("no %s", name)
		}
		if messages, err = h.header(links[i].at); err != nil {
			return nil, err
		}
	}
	return messages, err
}
