package imagefile

import (
	"bytes"
	"errors"
	"strings"
)

// attribute is the value of an attribute: texts, or the first of its numbers.
type attribute struct {
	texts  []string
	number float64
}

func (a attribute) text() string {
	if len(a.texts) == 0 {
		return ""
	}
	return a.texts[0]
}

// maxTexts bounds the texts of one attribute.
const maxTexts = 32

// attributes reads an object's attributes that are texts or real
// numbers; those of other types, and damaged ones, are left out.
func (h *hdf5) attributes(messages []message) map[string]attribute {
	all := map[string]attribute{}
	add := func(b []byte) error {
		if name, a, err := h.attribute(b); err == nil {
			all[name] = a
		}
		return nil
	}
	for _, m := range messages {
		switch {
		case m.kind == msgAttribute && !m.shared:
			add(m.data)
		case m.kind == msgAttributes:
			c := &cursor{b: m.data}
			c.take(1)
			if c.int(1)&1 != 0 {
				c.take(2)
			}
			if heap, index := h.address(c), h.address(c); heap >= 0 && c.err == nil {
				// an error leaves the rest out
				_ = h.objects(heap, index, attributeNames, add)
			}
		}
	}
	return all
}

func (h *hdf5) attribute(data []byte) (name string, a attribute, err error) {
	c := &cursor{b: data}
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
	if c.err != nil || len(parts[1]) < 8 {
		return "", a, errors.New("a damaged attribute")
	}
	name = cString(parts[0])
	dims, err := h.dataspace(parts[2])
	if err != nil {
		return "", a, err
	}
	n := int64(1)
	for _, d := range dims {
		if n *= min(d, maxTexts); n > maxTexts {
			n = maxTexts
		}
	}
	t := &cursor{b: parts[1]}
	const fixed, variable = 3, 9
	switch class, _, size := t.int(1)&15, t.int(3), t.int(4); class {
	case fixed:
		for range n {
			a.texts = append(a.texts, cString(c.take(size)))
		}
	case variable:
		for range n {
			length, at, index := c.int(4), h.address(c), c.int(4)
			if c.err != nil {
				break
			}
			b, err := h.heapObject(at, index)
			if err != nil {
				return "", a, err
			}
			a.texts = append(a.texts, cString(b[:min(length, len(b))]))
		}
	default:
		e, err := datatype(parts[1], 0)
		if err != nil {
			return "", a, err
		}
		if b := c.take(e.size); c.err == nil && e.kind == 'f' && e.size == 8 {
			a.number = (&cursor{b: b}).float()
			if e.order.Uint16([]byte{0, 1}) == 1 { // big-endian
				b = bytes.Clone(b)
				for i := range 4 {
					b[i], b[7-i] = b[7-i], b[i]
				}
				a.number = (&cursor{b: b}).float()
			}
		} else if c.err == nil {
			a.number = float64(e.value(b))
		}
	}
	return name, a, c.err
}

// cString is the text before the first NUL, without padding.
func cString(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.TrimRight(string(b), " ")
}

// heapObject reads an object of a global heap collection, where texts of variable
// length are kept.
func (h *hdf5) heapObject(at int64, index int) ([]byte, error) {
	c, err := h.node(at, int64(8+h.lens), "GCOL")
	if err != nil {
		return nil, err
	}
	c.take(4)
	size := c.number(h.lens)
	head := int64(8 + h.lens)
	end := at + size
	for at += head; at < end; {
		b, err := h.bytes(at, head)
		if err != nil {
			return nil, err
		}
		c := &cursor{b: b}
		i := c.int(2)
		c.take(6)
		n := c.number(h.lens)
		if i == 0 || n < 0 || n > h.size {
			break
		}
		if i == index {
			return h.bytes(at+head, n)
		}
		at += head + (n+7)/8*8
	}
	return nil, errors.New("a text is missing from its heap")
}
