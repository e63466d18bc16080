package imagefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// calibrate looks for the pixel size of an array where Velox and where the
// EMD format of NCEM keep it. Without one, or if it cannot be read, it is
// unknown.
func (h *hdf5) calibrate(root int64, a hdf5Array, f *Info) {
	h.budget += h.size // what the search for arrays took
	dir := path.Dir(a.name)
	if strings.HasPrefix(a.name, "/Data/Image/") {
		text, err := h.veloxMetadata(root, dir+"/Metadata")
		var m struct {
			BinaryResult struct {
				PixelSize struct {
					Width, Height float64 `json:",string"` // m
				}
			}
		}
		if err == nil && json.Unmarshal(text, &m) == nil {
			f.calibrate(m.BinaryResult.PixelSize.Width, m.BinaryResult.PixelSize.Height, "m", "Velox metadata")
		}
		return
	}
	var steps [2]float64
	var unit string
	for i, d := range []int{a.axes.column, a.axes.row} {
		messages, err := h.lookup(root, fmt.Sprintf("%s/dim%d", dir, d+1))
		if err != nil {
			return
		}
		if steps[i], unit, err = h.scale(messages); err != nil {
			return
		}
	}
	f.calibrate(steps[0], steps[1], unit, "EMD dimension vectors")
}

// scale reads the step and the unit of NCEM's vector of coordinates, "[n_m]" or
// "nm".
func (h *hdf5) scale(messages []message) (step float64, unit string, err error) {
	kind, layout := find(messages, msgDatatype), find(messages, msgLayout)
	if kind == nil || layout == nil {
		return 0, "", errors.New("no vector")
	}
	e, err := datatype(kind.data, 0)
	if err != nil {
		return 0, "", err
	}
	c := &cursor{b: layout.data}
	if version, class := c.int(1), c.int(1); version < 3 || class != 1 {
		return 0, "", errors.New("a vector that is not contiguous")
	}
	b, err := h.bytes(h.address(c), int64(2*e.size))
	if err != nil {
		return 0, "", err
	}
	for _, m := range messages {
		if name, text := attribute(m); name == "units" {
			unit = strings.NewReplacer("[", "", "]", "", "_", "").Replace(text)
		}
	}
	return float64(e.value(b[e.size:])) - float64(e.value(b)), unit, nil
}

// attribute reads an attribute that is a string of fixed length.
func attribute(m message) (name, text string) {
	if m.kind != msgAttribute {
		return "", ""
	}
	c := &cursor{b: m.data}
	version := c.int(1)
	c.take(1)
	sizes := [3]int{c.int(2), c.int(2), c.int(2)} // of name, datatype and dataspace
	if version == 3 {
		c.take(1)
	}
	var parts [3][]byte
	for i, n := range sizes {
		if version == 1 {
			n = (n + 7) / 8 * 8
		}
		parts[i] = c.take(n)
	}
	t := &cursor{b: parts[1]}
	if class, _, size := t.int(1)&15, t.int(3), t.int(4); class == 3 && c.err == nil && t.err == nil {
		v := c.take(size)
		if c.err == nil {
			return strings.TrimRight(string(parts[0]), "\x00"), strings.TrimRight(string(v), "\x00 ")
		}
	}
	return "", ""
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
	dims, err := h.dataspace(space.data)
	if err != nil || len(dims) != 2 {
		return nil, errors.New("no table of bytes")
	}
	s, err := h.stack(hdf5Array{name, messages, dims, axes{-1, 0, 1}})
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
