package ptx

import (
	"math/bits"
	"slices"
	"strings"
)

// access is what a load or a store says of memory.
type access struct {
	space    string // "global", "shared", "const", "" for a generic address
	elements int
	typ      typ // of an element
	base     int // the register of the address
	offset   uint64
	places   []int // the registers of the elements
	wide     []typ // their types
	write    bool
	readOnly bool // .nc: what nobody writes in this launch
}

// access compiles what loads and stores share. Hints for caches are dropped.
func (c *compiler) access(m *modifiers, write bool) *access {
	c.count(2)
	a := &access{write: write, elements: 1}
	a.typ = m.typ()
	c.want(a.typ, "busf", 8, 16, 32, 64)
	m.of("weak", "volatile", "relaxed")
	m.of("cta", "gpu", "sys")
	a.space = m.of("global", "shared", "const", "param")
	m.has("ca")
	m.of("cg", "cs", "lu", "cv", "wb", "wt")
	a.readOnly = m.has("nc")
	m.left = slices.DeleteFunc(slices.Clone(m.left), func(s string) bool {
		return strings.HasPrefix(s, "L1::") || strings.HasPrefix(s, "L2::")
	})
	switch m.of("v2", "v4") {
	case "v2":
		a.elements = 2
	case "v4":
		a.elements = 4
	}
	if a.elements*a.typ.bits > 128 || a.readOnly && a.space != "global" || write && (a.readOnly || a.space == "const" || a.space == "param") {
		c.unknown()
	}
	at, values := c.at.operands[0], c.at.operands[1]
	if !write {
		at, values = values, at
	}
	if at.kind != address {
		c.fail("%s is no address", at)
	}
	parts := []operand{values}
	if values.kind == list {
		parts = values.parts
	}
	if len(parts) != a.elements || a.elements > 1 && values.kind != list {
		c.fail("%s where %d elements should be", values, a.elements)
	}
	for _, p := range parts {
		if write {
			a.places = append(a.places, c.wide(p, a.typ, true))
		} else {
			d, t := c.destination(p, a.typ, true)
			a.places, a.wide = append(a.places, d), append(a.wide, t)
		}
	}
	a.offset = uint64(at.offset)
	if a.space == "param" {
		return a
	}
	if size := a.typ.bits / 8; size < c.k.grain {
		c.k.grain = size
	}
	a.base = c.address(at, a)
	return a
}

// address is the register of an address.
func (c *compiler) address(at operand, a *access) int {
	if at.name == "" {
		return c.constant(0, false)
	}
	if r, ok := c.at.scope.find(at.name); ok {
		if r.typ.kind == 'p' || r.typ.kind == 'f' || r.typ.bits != 64 && (r.typ.bits != 32 || a.space != "shared") {
			c.fail("%s, of type %s, is no address", at.name, r.typ)
		}
		return r.place
	}
	v, ok := c.variable(at.name)
	if !ok {
		c.fail("there is no register and no variable %s", at.name)
	}
	return c.constant(v, false)
}

func load(c *compiler, _ string, m *modifiers) op {
	a := c.access(m, false)
	if a.space == "param" {
		return c.parameter(a)
	}
	bytes := a.typ.bits / 8
	extend := a.typ.kind == 's'
	return func(w *warp, m uint32) {
		base := &w.regs[a.base]
		now := w.begin(a, m)
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			s, at := w.locate(a, base[l]+a.offset, l)
			for _, d := range s.defined[at : at+bytes*a.elements] {
				if d == 0 {
					w.fault(Undefined, l, "address %#x: %s", base[l]+a.offset, s.place(s.undefined(at, at+bytes*a.elements)))
				}
			}
			if now != 0 {
				w.note(a, s, at, now|uint64(l), l)
			}
			if bytes == 4 && !extend { // most are
				for i, d := range a.places {
					w.regs[d][l] = getBytes(s.data[at+4*i : at+4*i+4])
				}
				continue
			}
			for i, d := range a.places {
				v := getBytes(s.data[at+i*bytes : at+(i+1)*bytes])
				if extend {
					v = uint64(a.typ.signed(v)) & a.wide[i].mask()
				}
				w.regs[d][l] = v
			}
		}
	}
}

func store(c *compiler, _ string, m *modifiers) op {
	a := c.access(m, true)
	bytes := a.typ.bits / 8
	return func(w *warp, m uint32) {
		base := &w.regs[a.base]
		now := w.begin(a, m)
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			s, at := w.locate(a, base[l]+a.offset, l)
			if now != 0 {
				w.note(a, s, at, now|uint64(l), l)
			}
			for i, p := range a.places {
				putBytes(s.data[at+i*bytes:at+(i+1)*bytes], w.regs[p][l])
			}
			defined := s.defined[at : at+bytes*a.elements]
			for i := range defined {
				defined[i] = 1
			}
		}
	}
}

// parameter compiles a load of a parameter, which is the same for all threads.
func (c *compiler) parameter(a *access) op {
	at := c.at.operands[1]
	i := slices.IndexFunc(c.src.params, func(p Param) bool { return p.Name == at.name })
	size := a.typ.bits / 8
	if i < 0 {
		c.fail("there is no parameter %s", at.name)
	}
	p := c.src.params[i]
	if at.offset < 0 || at.offset > int64(p.Bytes) || int(at.offset)+size*a.elements > p.Bytes {
		c.fail("%s has %d bytes", at.name, p.Bytes)
	}
	from := p.Offset + int(at.offset)
	if from%(size*a.elements) != 0 {
		c.fail("%s is not aligned to %d bytes", at, size*a.elements)
	}
	return func(w *warp, m uint32) {
		for i, d := range a.places {
			v := getBytes(w.run.params[from+i*size : from+(i+1)*size])
			if a.typ.kind == 's' {
				v = uint64(a.typ.signed(v)) & a.wide[i].mask()
			}
			D := &w.regs[d]
			lanes(m, func(l int) { D[l] = v })
		}
	}
}

// begin counts an access of the lanes m, and returns the word of bits of one by lane 0,
// or 0 if races are not searched for.
func (w *warp) begin(a *access, m uint32) uint64 {
	if w.run.counted {
		w.cta.counts.access(w, a, m)
	}
	if !w.run.races || a.space == "const" {
		return 0
	}
	return w.now(w.run.stamp, w.cta.number)
}

// locate finds the memory of an access by a lane.
func (w *warp) locate(a *access, address uint64, l int) (*segment, int) {
	bytes := a.typ.bits / 8 * a.elements
	s := w.last
	switch {
	case a.space == "shared":
		s = w.cta.shared
	case a.space == "const":
		s = w.run.k.module.constant
	case a.space == "" && address >= sharedWindow:
		s = w.cta.shared
		address -= sharedWindow
	case s == nil || address-s.base >= uint64(len(s.data)):
		if s = w.run.memory.find(address); s == nil {
			w.fault(Bounds, l, "address %#x is in no allocation", address)
		}
		w.last = s
	}
	at := address - s.base
	if n := uint64(len(s.data)); at >= n || uint64(bytes) > n-at {
		w.fault(Bounds, l, "%d bytes at address %#x: %s", bytes, address, s.place(int(at)))
	}
	if address%uint64(bytes) != 0 {
		w.fault(Alignment, l, "%d bytes at address %#x", bytes, address)
	}
	return s, int(at)
}

// note searches for races of an access by a lane.
func (w *warp) note(a *access, s *segment, at int, now uint64, l int) {
	grain, alone := w.run.k.grain, s == w.cta.shared
	for g := at / grain; g < (at+a.typ.bits/8*a.elements)/grain; g++ {
		var other uint64
		if a.write {
			other = s.write(g, now, alone)
		} else {
			other = s.read(g, now, alone, a.readOnly)
		}
		if other != 0 {
			what := "reads"
			if a.write {
				what = "writes"
			}
			w.fault(Race, l, "%s: this thread %s, in no order with an access by %s", s.place(g*grain), what, w.run.who(other))
		}
	}
}
