package ptx

import (
	"math"
	"math/bits"
	"slices"
	"strings"
)

// modifiers are the words of an opcode that are still to be understood.
type modifiers struct {
	c    *compiler
	left []string
}

// has takes a word.
func (m *modifiers) has(word string) bool {
	if i := slices.Index(m.left, word); i >= 0 {
		m.left = slices.Delete(slices.Clone(m.left), i, i+1)
		return true
	}
	return false
}

// of takes the first of some words, or returns "".
func (m *modifiers) of(words ...string) string {
	for _, w := range words {
		if m.has(w) {
			return w
		}
	}
	return ""
}

// typ takes the last word, which is a type.
func (m *modifiers) typ() typ {
	if len(m.left) > 0 {
		if t, ok := typeOf(m.left[len(m.left)-1]); ok {
			m.left = m.left[:len(m.left)-1]
			return t
		}
	}
	m.c.unknown()
	return typ{}
}

// done refuses what was not understood.
func (m *modifiers) done() {
	if len(m.left) > 0 {
		m.c.fail("this instruction is not executed: .%s", strings.Join(m.left, "."))
	}
}

// want refuses a type of other kinds or widths than the given ones.
func (c *compiler) want(t typ, kinds string, widths ...int) {
	if !strings.ContainsRune(kinds, rune(t.kind)) || !slices.Contains(widths, t.bits) {
		c.unknown()
	}
}

// instruction compiles the statement at hand, without its guard.
func (c *compiler) instruction() op {
	words := strings.Split(c.at.opcode, ".")
	m := &modifiers{c, words[1:]}
	if m.has("approx") || m.has("full") {
		c.fail("the ISA does not say what its bits are")
	}
	compile, ok := families[words[0]]
	if !ok {
		c.unknown()
	}
	run := compile(c, words[0], m)
	m.done()
	return run
}

var families map[string]func(c *compiler, name string, m *modifiers) op

func init() {
	families = map[string]func(c *compiler, name string, m *modifiers) op{
		"mov": move, "cvta": convertAddress, "cvt": convert, "ld": load, "st": store,
		"setp": compare, "selp": choose, "shfl": shuffle, "vote": vote, "activemask": activeMask,
		"mul": multiply, "mad": multiplyAdd, "fma": fuse, "membar": fence, "fence": fence, "bar": warpBarrier,
		"shf": funnel, "bfe": extract, "bfi": insert, "prmt": permute, "lop3": logic3, "copysign": copySign, "testp": testProperty,
	}
	for _, name := range []string{"add", "sub", "div", "rem", "min", "max", "and", "or", "xor", "shl", "shr"} {
		families[name] = twoOperands
	}
	for _, name := range []string{"abs", "neg", "not", "cnot", "popc", "clz", "brev", "sqrt", "rcp"} {
		families[name] = oneOperand
	}
}

// The loops over lanes that most instructions are.

func each1(d, a int, f func(x uint64) uint64) op {
	return func(w *warp, m uint32) {
		D, A := &w.regs[d], &w.regs[a]
		if m == fullWarp {
			for l := range D {
				D[l] = f(A[l])
			}
			return
		}
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			D[l] = f(A[l])
		}
	}
}

func each2(d, a, b int, f func(x, y uint64) uint64) op {
	return func(w *warp, m uint32) {
		D, A, B := &w.regs[d], &w.regs[a], &w.regs[b]
		if m == fullWarp {
			for l := range D {
				D[l] = f(A[l], B[l])
			}
			return
		}
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			D[l] = f(A[l], B[l])
		}
	}
}

func each3(d, a, b, c int, f func(x, y, z uint64) uint64) op {
	return func(w *warp, m uint32) {
		D, A, B, C := &w.regs[d], &w.regs[a], &w.regs[b], &w.regs[c]
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			D[l] = f(A[l], B[l], C[l])
		}
	}
}

// eachMask makes a predicate.
func eachMask(d, a, b int, f func(x, y uint64) bool) func(w *warp, m uint32) uint32 {
	return func(w *warp, m uint32) uint32 {
		A, B := &w.regs[a], &w.regs[b]
		var r uint32
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			if f(A[l], B[l]) {
				r |= 1 << l
			}
		}
		return r
	}
}

// into sets the lanes m of a mask to those of v.
func (w *warp) into(p int, m, v uint32) {
	w.masks[p] = w.masks[p]&^m | v&m
}

// rounding takes an instruction's rounding. Additions and multiplications without one
// are refused: the driver may contract them.
func (m *modifiers) rounding() rounding {
	r := rounding(m.of("rn", "rz", "rm", "rp"))
	if r == "" {
		m.c.fail("it names no rounding, so the driver may contract it into a fused multiply-add, or approximate it")
	}
	return r
}

// floating wraps a function of up to three floats in what an opcode says of them.
func (m *modifiers) floating(t typ, o operation) func(x, y, z uint64) uint64 {
	mode, ftz, sat := m.rounding(), m.has("ftz"), m.has("sat")
	m.c.want(t, "f", 32, 64)
	if t.bits == 64 {
		if ftz {
			m.c.unknown()
		}
		return func(x, y, z uint64) uint64 {
			r := o.do64(mode, f64(x), f64(y), f64(z))
			if sat {
				r = saturate64(r)
			}
			return bits64(r)
		}
	}
	if mode == nearest && !ftz && !sat {
		return func(x, y, z uint64) uint64 { return bits32(o.nearest32(f32(x), f32(y), f32(z))) }
	}
	return func(x, y, z uint64) uint64 {
		a, b, c := f32(x), f32(y), f32(z)
		if ftz {
			a, b, c = flush(a), flush(b), flush(c)
		}
		r := o.do32(mode, a, b, c)
		if ftz {
			r = flush(r)
		}
		if sat {
			r = saturate32(r)
		}
		return bits32(r)
	}
}

func twoOperands(c *compiler, name string, m *modifiers) op {
	c.count(3)
	t := m.typ()
	o := c.at.operands
	if t.kind == 'p' {
		if name != "and" && name != "or" && name != "xor" {
			c.unknown()
		}
		d, a, b := c.predicate(o[0]), c.condition(o[1]), c.condition(o[2])
		return func(w *warp, m uint32) {
			x, y := a(w), b(w)
			switch name {
			case "and":
				x &= y
			case "or":
				x |= y
			default:
				x ^= y
			}
			w.into(d, m, x)
		}
	}
	d, _ := c.destination(o[0], t, false)
	a := c.operand(o[1], t)
	second := t
	if name == "shl" || name == "shr" {
		second = typ{'u', 32}
	}
	b := c.operand(o[2], second)
	if t.kind == 'f' {
		return c.binaryFloat(name, m, t, d, a, b)
	}
	mask := t.mask()
	switch name {
	case "and", "or", "xor":
		c.want(t, "b", 16, 32, 64)
	case "shl":
		c.want(t, "b", 16, 32, 64)
	case "shr":
		c.want(t, "bus", 16, 32, 64)
	default:
		c.want(t, "us", 16, 32, 64)
	}
	n := uint64(t.bits)
	switch name {
	case "add":
		if t.bits == 32 {
			return add32(d, a, b)
		}
		return each2(d, a, b, func(x, y uint64) uint64 { return (x + y) & mask })
	case "sub":
		return each2(d, a, b, func(x, y uint64) uint64 { return (x - y) & mask })
	case "and":
		return each2(d, a, b, func(x, y uint64) uint64 { return x & y })
	case "or":
		return each2(d, a, b, func(x, y uint64) uint64 { return x | y })
	case "xor":
		return each2(d, a, b, func(x, y uint64) uint64 { return x ^ y })
	case "shl": // amounts beyond the width are the width
		return each2(d, a, b, func(x, y uint64) uint64 { return x << min(y, n) & mask })
	case "shr":
		if t.kind == 's' {
			return each2(d, a, b, func(x, y uint64) uint64 { return uint64(t.signed(x)>>min(y, n)) & mask })
		}
		return each2(d, a, b, func(x, y uint64) uint64 { return x >> min(y, n) })
	case "min", "max":
		return each2(d, a, b, func(x, y uint64) uint64 {
			less := x < y
			if t.kind == 's' {
				less = t.signed(x) < t.signed(y)
			}
			if less == (name == "min") {
				return x
			}
			return y
		})
	}
	// div and rem
	return func(w *warp, m uint32) {
		D, A, B := &w.regs[d], &w.regs[a], &w.regs[b]
		lanes(m, func(l int) {
			x, y := A[l], B[l]
			if y == 0 {
				w.fault(Arithmetic, l, "an integer is divided by zero")
			}
			switch {
			case t.kind == 's' && name == "div":
				x = uint64(t.signed(x)/t.signed(y)) & mask
			case t.kind == 's':
				x = uint64(t.signed(x)%t.signed(y)) & mask
			case name == "div":
				x /= y
			default:
				x %= y
			}
			D[l] = x
		})
	}
}

func (c *compiler) binaryFloat(name string, m *modifiers, t typ, d, a, b int) op {
	switch name {
	case "add", "sub":
		f := m.floating(t, sum)
		flip := uint64(0)
		if name == "sub" {
			flip = 1 << (t.bits - 1)
		}
		return each2(d, a, b, func(x, y uint64) uint64 { return f(x, y^flip, 0) })
	case "div":
		f := m.floating(t, quotient)
		return each2(d, a, b, func(x, y uint64) uint64 { return f(x, y, 0) })
	case "min", "max":
		c.want(t, "f", 32, 64)
		ftz, spread := m.has("ftz"), m.has("NaN")
		of := smaller
		if name == "max" {
			of = larger
		}
		if t.bits == 64 {
			if ftz || spread {
				c.unknown()
			}
			return each2(d, a, b, func(x, y uint64) uint64 { return bits64(of(f64(x), f64(y))) })
		}
		return each2(d, a, b, func(x, y uint64) uint64 {
			p, q := f32(x), f32(y)
			if ftz {
				p, q = flush(p), flush(q)
			}
			if spread && (p != p || q != q) {
				return nan32
			}
			return bits32(float32(of(float64(p), float64(q))))
		})
	}
	c.unknown()
	return nil
}

func add32(d, a, b int) op {
	return func(w *warp, m uint32) {
		D, A, B := &w.regs[d], &w.regs[a], &w.regs[b]
		if m == fullWarp {
			for l := range D {
				D[l] = uint64(uint32(A[l] + B[l]))
			}
			return
		}
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			D[l] = uint64(uint32(A[l] + B[l]))
		}
	}
}

func oneOperand(c *compiler, name string, m *modifiers) op {
	c.count(2)
	t := m.typ()
	o := c.at.operands
	if t.kind == 'p' {
		if name != "not" {
			c.unknown()
		}
		d, a := c.predicate(o[0]), c.condition(o[1])
		return func(w *warp, m uint32) { w.into(d, m, ^a(w)) }
	}
	result := t
	if name == "popc" || name == "clz" {
		result = typ{'u', 32}
	}
	d, _ := c.destination(o[0], result, false)
	a := c.operand(o[1], t)
	mask, top := t.mask(), uint64(1)<<(t.bits-1)
	if t.kind == 'f' {
		c.want(t, "f", 32, 64)
		switch name {
		case "abs", "neg":
			ftz := m.has("ftz")
			return each1(d, a, func(x uint64) uint64 {
				if ftz && t.bits == 32 {
					x = uint64(math.Float32bits(flush(f32(x))))
				}
				if name == "abs" {
					return x &^ top
				}
				return x ^ top
			})
		case "sqrt":
			f := m.floating(t, root)
			return each1(d, a, func(x uint64) uint64 { return f(x, 0, 0) })
		case "rcp":
			f := m.floating(t, quotient)
			one := bits64(1)
			if t.bits == 32 {
				one = bits32(1)
			}
			return each1(d, a, func(x uint64) uint64 { return f(one, x, 0) })
		}
		c.unknown()
	}
	switch name {
	case "abs":
		c.want(t, "s", 16, 32, 64)
		return each1(d, a, func(x uint64) uint64 {
			if x&top != 0 {
				x = -x
			}
			return x & mask
		})
	case "neg":
		c.want(t, "s", 16, 32, 64)
		return each1(d, a, func(x uint64) uint64 { return -x & mask })
	case "not":
		c.want(t, "b", 16, 32, 64)
		return each1(d, a, func(x uint64) uint64 { return ^x & mask })
	case "cnot":
		c.want(t, "b", 16, 32, 64)
		return each1(d, a, func(x uint64) uint64 {
			if x == 0 {
				return 1
			}
			return 0
		})
	case "popc":
		c.want(t, "b", 32, 64)
		return each1(d, a, func(x uint64) uint64 { return uint64(bits.OnesCount64(x)) })
	case "clz":
		c.want(t, "b", 32, 64)
		return each1(d, a, func(x uint64) uint64 { return uint64(bits.LeadingZeros64(x) - 64 + t.bits) })
	case "brev":
		c.want(t, "b", 32, 64)
		return each1(d, a, func(x uint64) uint64 { return bits.Reverse64(x) >> (64 - t.bits) })
	}
	c.unknown()
	return nil
}

// product compiles what mul and mad share: the result's type and the product.
func (c *compiler) product(m *modifiers, t typ) (result typ, f func(x, y uint64) uint64) {
	c.want(t, "us", 16, 32, 64)
	result = t
	mask := t.mask()
	switch m.of("lo", "hi", "wide") {
	case "lo":
		f = func(x, y uint64) uint64 { return x * y & mask }
	case "hi":
		f = func(x, y uint64) uint64 { return high(x, y, t) }
	case "wide":
		c.want(t, "us", 16, 32)
		result.bits *= 2
		if t.kind == 's' {
			wide := result.mask()
			f = func(x, y uint64) uint64 { return uint64(t.signed(x)*t.signed(y)) & wide }
		} else {
			f = func(x, y uint64) uint64 { return x * y }
		}
	default:
		c.unknown()
	}
	return result, f
}

func multiply(c *compiler, _ string, m *modifiers) op {
	c.count(3)
	t := m.typ()
	o := c.at.operands
	if t.kind == 'f' {
		f := m.floating(t, product)
		d, _ := c.destination(o[0], t, false)
		return each2(d, c.operand(o[1], t), c.operand(o[2], t), func(x, y uint64) uint64 { return f(x, y, 0) })
	}
	result, f := c.product(m, t)
	d, _ := c.destination(o[0], result, false)
	return each2(d, c.operand(o[1], t), c.operand(o[2], t), f)
}

func multiplyAdd(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	o := c.at.operands
	result, f := c.product(m, t)
	d, _ := c.destination(o[0], result, false)
	mask := result.mask()
	return each3(d, c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], result), func(x, y, z uint64) uint64 { return (f(x, y) + z) & mask })
}

func fuse(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	o := c.at.operands
	plain := slices.Equal(m.left, []string{"rn"}) && t.bits == 32
	f := m.floating(t, fused)
	d, _ := c.destination(o[0], t, false)
	x, y, z := c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], t)
	if plain {
		return fuse32(d, x, y, z)
	}
	return each3(d, x, y, z, f)
}

// fuse32 is fma.rn.f32, of which convolutions consist: fma32, written out.
func fuse32(d, x, y, z int) op {
	return func(w *warp, m uint32) {
		D, X, Y, Z := &w.regs[d], &w.regs[x], &w.regs[y], &w.regs[z]
		if m != fullWarp {
			for ; m != 0; m &= m - 1 {
				l := bits.TrailingZeros32(m) & 31
				D[l] = bits32(fma32(f32(X[l]), f32(Y[l]), f32(Z[l])))
			}
			return
		}
		for l := range D {
			p, c := float64(f32(X[l]))*float64(f32(Y[l])), float64(f32(Z[l]))
			s := p + c
			b := math.Float64bits(s)
			if e := b >> 52 & 0x7ff; b&0x1fff_ffff != 0x1000_0000 && e-897 < 0x7ff-897 {
				D[l] = uint64(math.Float32bits(float32(s)))
			} else {
				D[l] = bits32(fma32slow(p, c, s))
			}
		}
	}
}

func move(c *compiler, _ string, m *modifiers) op {
	c.count(2)
	t := m.typ()
	o := c.at.operands
	if t.kind == 'p' {
		d, a := c.predicate(o[0]), c.condition(o[1])
		return func(w *warp, m uint32) { w.into(d, m, a(w)) }
	}
	switch {
	case o[0].kind == list && o[1].kind == list:
		c.unknown()
	case o[0].kind == list: // apart
		part := c.part(t, o[0])
		a := c.operand(o[1], typ{'b', t.bits})
		var ds []int
		for _, p := range o[0].parts {
			d, _ := c.destination(p, part, false)
			ds = append(ds, d)
		}
		return func(w *warp, m uint32) {
			lanes(m, func(l int) {
				v := w.regs[a][l]
				for i, d := range ds {
					w.regs[d][l] = v >> (i * part.bits) & part.mask()
				}
			})
		}
	case o[1].kind == list: // together
		part := c.part(t, o[1])
		d, _ := c.destination(o[0], typ{'b', t.bits}, false)
		var as []int
		for _, p := range o[1].parts {
			as = append(as, c.operand(p, part))
		}
		return func(w *warp, m uint32) {
			lanes(m, func(l int) {
				v := uint64(0)
				for i, a := range as {
					v |= w.regs[a][l] << (i * part.bits)
				}
				w.regs[d][l] = v
			})
		}
	}
	c.want(t, "busf", 16, 32, 64)
	d, _ := c.destination(o[0], t, false)
	a := c.operand(o[1], t)
	return func(w *warp, m uint32) {
		D, A := &w.regs[d], &w.regs[a]
		if m == fullWarp {
			*D = *A
			return
		}
		for ; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m) & 31
			D[l] = A[l]
		}
	}
}

// part is the type of the parts of a number.
func (c *compiler) part(t typ, o operand) typ {
	p := typ{'b', t.bits / len(o.parts)}
	if t.kind != 'b' || p.bits*len(o.parts) != t.bits || p.bits < 8 || len(o.parts) < 2 {
		c.unknown()
	}
	return p
}

func convertAddress(c *compiler, _ string, m *modifiers) op {
	c.count(2)
	t := m.typ()
	c.want(t, "u", 64)
	m.has("to")
	to := slices.Contains(strings.Split(c.at.opcode, "."), "to")
	space := m.of("global", "shared")
	var shift uint64
	switch {
	case space == "":
		c.unknown()
	case space == "shared" && to:
		shift = ^uint64(sharedWindow) + 1
	case space == "shared":
		shift = sharedWindow
	}
	d, _ := c.destination(c.at.operands[0], t, false)
	return each1(d, c.operand(c.at.operands[1], t), func(x uint64) uint64 { return x + shift })
}

func convert(c *compiler, _ string, m *modifiers) op {
	c.count(2)
	from := m.typ()
	to := m.typ()
	mode := rounding(m.of("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"))
	ftz, sat := m.has("ftz"), m.has("sat")
	if from.kind == 'p' || to.kind == 'p' || from.kind == 'b' || to.kind == 'b' {
		c.unknown()
	}
	d, reg := c.destination(c.at.operands[0], to, true)
	a := c.wide(c.at.operands[1], from, true)
	whole := strings.HasSuffix(string(mode), "i")
	mask := from.mask()
	var f func(x uint64) uint64
	switch {
	case from.kind != 'f' && to.kind != 'f':
		if mode != "" || ftz {
			c.unknown()
		}
		f = func(x uint64) uint64 { return integerToInteger(x&mask, from, to, sat) }
	case from.kind == 'f' && to.kind != 'f':
		if !whole || sat {
			c.unknown() // .sat is what it does anyway
		}
		f = func(x uint64) uint64 {
			v := floatOf(x&mask, from)
			if ftz && from.bits == 32 {
				v = float64(flush(float32(v)))
			}
			return toInteger(mode.round64(v), to, from)
		}
	case from.kind != 'f':
		if mode == "" || whole || to.bits == 16 || sat {
			c.unknown()
		}
		f = func(x uint64) uint64 { return fromInteger(x&mask, from, to.bits, mode) }
	default:
		f = c.floatToFloat(from, to, mode, whole, ftz, sat)
	}
	// A wider register gets the result with its sign.
	keep := reg.mask()
	return each1(d, a, func(x uint64) uint64 {
		r := f(x)
		if to.kind == 's' {
			r = uint64(to.signed(r)) & keep
		}
		return r
	})
}

func integerToInteger(x uint64, from, to typ, sat bool) uint64 {
	if from.kind == 's' {
		x = uint64(from.signed(x))
	}
	if sat {
		negative := from.kind == 's' && int64(x) < 0
		switch {
		case to.kind == 'u' && negative:
			return 0
		case to.kind == 'u' && x > to.mask():
			return to.mask()
		case to.kind == 's' && !negative && x > to.mask()>>1:
			return to.mask() >> 1
		case to.kind == 's' && negative && int64(x) < -1<<(to.bits-1):
			return 1 << (to.bits - 1)
		}
	}
	return x & to.mask()
}

func floatOf(x uint64, t typ) float64 {
	switch t.bits {
	case 16:
		return float64(from16(x))
	case 32:
		return float64(f32(x))
	}
	return f64(x)
}

func (c *compiler) floatToFloat(from, to typ, mode rounding, whole, ftz, sat bool) func(x uint64) uint64 {
	widens := to.bits > from.bits
	switch {
	case to.bits == from.bits && !whole, to.bits < from.bits && (mode == "" || whole), widens && mode != "",
		to.bits == 16 && (from.bits != 32 || mode != nearest), from.bits == 16 && to.bits != 32, ftz && from.bits == 64 && to.bits == 64:
		c.unknown()
	}
	return func(x uint64) uint64 {
		v := floatOf(x, from)
		if ftz && from.bits == 32 {
			v = float64(flush(float32(v)))
		}
		if whole {
			v = mode.round64(v)
		}
		if sat {
			v = saturate64(v)
		}
		switch to.bits {
		case 16:
			return half16(float32(v))
		case 32:
			r := float32(v)
			if from.bits == 64 {
				r = narrow(v, mode)
			}
			if ftz {
				r = flush(r)
			}
			return bits32(r)
		}
		return bits64(v)
	}
}

// comparison is the function of a setp.
func comparison(name string, t typ) func(x, y uint64) bool {
	if t.kind == 'f' {
		value := func(x uint64) float64 { return floatOf(x, t) }
		ordered := map[string]func(x, y float64) bool{
			"eq": func(x, y float64) bool { return x == y },
			"ne": func(x, y float64) bool { return x < y || x > y },
			"lt": func(x, y float64) bool { return x < y },
			"le": func(x, y float64) bool { return x <= y },
			"gt": func(x, y float64) bool { return x > y },
			"ge": func(x, y float64) bool { return x >= y },
		}
		if f, ok := ordered[name]; ok {
			return func(x, y uint64) bool { return f(value(x), value(y)) }
		}
		if f, ok := ordered[strings.TrimSuffix(name, "u")]; ok { // or unordered
			return func(x, y uint64) bool { a, b := value(x), value(y); return a != a || b != b || f(a, b) }
		}
		switch name {
		case "num":
			return func(x, y uint64) bool { a, b := value(x), value(y); return a == a && b == b }
		case "nan":
			return func(x, y uint64) bool { a, b := value(x), value(y); return a != a || b != b }
		}
		return nil
	}
	switch name {
	case "eq":
		return func(x, y uint64) bool { return x == y }
	case "ne":
		return func(x, y uint64) bool { return x != y }
	}
	if t.kind == 's' {
		switch name {
		case "lt":
			return func(x, y uint64) bool { return t.signed(x) < t.signed(y) }
		case "le":
			return func(x, y uint64) bool { return t.signed(x) <= t.signed(y) }
		case "gt":
			return func(x, y uint64) bool { return t.signed(x) > t.signed(y) }
		case "ge":
			return func(x, y uint64) bool { return t.signed(x) >= t.signed(y) }
		}
		return nil
	}
	if t.kind == 'u' {
		switch name {
		case "lt", "lo":
			return func(x, y uint64) bool { return x < y }
		case "le", "ls":
			return func(x, y uint64) bool { return x <= y }
		case "gt", "hi":
			return func(x, y uint64) bool { return x > y }
		case "ge", "hs":
			return func(x, y uint64) bool { return x >= y }
		}
	}
	return nil
}

func compare(c *compiler, _ string, m *modifiers) op {
	t := m.typ()
	c.want(t, "busf", 16, 32, 64)
	ftz := m.has("ftz")
	if len(m.left) == 0 {
		c.unknown()
	}
	name := m.left[0]
	m.left = m.left[1:]
	f := comparison(name, t)
	if f == nil || t.kind == 'f' && t.bits == 16 {
		c.unknown()
	}
	if ftz {
		c.want(t, "f", 32)
		plain := f
		f = func(x, y uint64) bool {
			return plain(uint64(math.Float32bits(flush(f32(x)))), uint64(math.Float32bits(flush(f32(y)))))
		}
	}
	combine := m.of("and", "or", "xor")
	o := c.at.operands
	other := func(w *warp) uint32 { return 0 }
	if combine != "" {
		c.count(4)
		other = c.condition(o[3])
	} else {
		c.count(3)
	}
	// One result, or p|q, of which q is the negation's.
	results := []operand{o[0]}
	if o[0].kind == list {
		results = o[0].parts
	}
	if len(results) > 2 {
		c.unknown()
	}
	var ps []int
	for _, r := range results {
		if r.name == "_" {
			ps = append(ps, -1)
		} else {
			ps = append(ps, c.predicate(r))
		}
	}
	test := eachMask(0, c.operand(o[1], t), c.operand(o[2], t), f)
	return func(w *warp, m uint32) {
		r, and := test(w, m), other(w)
		for i, p := range ps {
			v := r
			if i == 1 {
				v = ^r
			}
			switch combine {
			case "and":
				v &= and
			case "or":
				v |= and
			case "xor":
				v ^= and
			}
			if p >= 0 {
				w.into(p, m, v)
			}
		}
	}
}

func choose(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	c.want(t, "busf", 16, 32, 64)
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	a, b, p := c.operand(o[1], t), c.operand(o[2], t), c.condition(o[3])
	return func(w *warp, m uint32) {
		yes := p(w)
		D, A, B := &w.regs[d], &w.regs[a], &w.regs[b]
		lanes(m, func(l int) {
			if yes>>l&1 != 0 {
				D[l] = A[l]
			} else {
				D[l] = B[l]
			}
		})
	}
}

// here checks that the lanes which an instruction names in its mask are those that execute it.
func (w *warp) here(m uint32, mask *vector) {
	lanes(m, func(l int) {
		named := uint32(mask[l])
		if missing := named & w.all &^ m; missing != 0 {
			w.fault(Divergence, l, "the mask %#x names lanes that are not here, lane %d first", named, bits.TrailingZeros32(missing))
		}
		if named>>l&1 == 0 {
			w.fault(Divergence, l, "the mask %#x lacks this lane, %d", named, l)
		}
	})
}

func shuffle(c *compiler, _ string, m *modifiers) op {
	c.count(5)
	t := m.typ()
	c.want(t, "b", 32)
	if !m.has("sync") {
		c.unknown()
	}
	mode := m.of("up", "down", "bfly", "idx")
	if mode == "" {
		c.unknown()
	}
	o := c.at.operands
	p := -1
	if o[0].kind == list {
		if len(o[0].parts) != 2 {
			c.unknown()
		}
		p = c.predicate(o[0].parts[1])
		o = append([]operand{o[0].parts[0]}, o[1:]...)
	}
	u := typ{'u', 32}
	d, _ := c.destination(o[0], t, false)
	a, b, k, mask := c.operand(o[1], t), c.operand(o[2], u), c.operand(o[3], u), c.operand(o[4], u)
	return func(w *warp, m uint32) {
		w.here(m, &w.regs[mask])
		from := w.regs[a]
		var in uint32
		var result vector
		lanes(m, func(l int) {
			clamp := int(w.regs[k][l] & 31)
			segment := int(w.regs[k][l] >> 8 & 31)
			by := int(w.regs[b][l] & 31)
			most := l&segment | clamp&^segment
			least := l & segment
			var j int
			var ok bool
			switch mode {
			case "up":
				j = l - by
				ok = j >= most
			case "down":
				j = l + by
				ok = j <= most
			case "bfly":
				j = l ^ by
				ok = j <= most
			default:
				j = least | by&^segment
				ok = j <= most
			}
			if !ok {
				j = l
			} else {
				in |= 1 << l
			}
			if m>>j&1 == 0 {
				w.fault(Divergence, l, "lane %d, from which it reads, is not here", j)
			}
			result[l] = from[j]
		})
		lanes(m, func(l int) { w.regs[d][l] = result[l] })
		if p >= 0 {
			w.into(p, m, in)
		}
	}
}

func vote(c *compiler, _ string, m *modifiers) op {
	c.count(3)
	t := m.typ()
	if !m.has("sync") {
		c.unknown()
	}
	mode := m.of("ballot", "any", "all", "uni")
	o := c.at.operands
	a, mask := c.condition(o[1]), c.operand(o[2], typ{'u', 32})
	if mode == "ballot" {
		c.want(t, "b", 32)
		d, _ := c.destination(o[0], t, false)
		return func(w *warp, m uint32) {
			w.here(m, &w.regs[mask])
			v := a(w) & m
			lanes(m, func(l int) { w.regs[d][l] = uint64(v) })
		}
	}
	if mode == "" || t.kind != 'p' {
		c.unknown()
	}
	d := c.predicate(o[0])
	return func(w *warp, m uint32) {
		w.here(m, &w.regs[mask])
		v := a(w) & m
		yes := mode == "any" && v != 0 || mode == "all" && v == m || mode == "uni" && (v == m || v == 0)
		if yes {
			v = fullWarp
		} else {
			v = 0
		}
		w.into(d, m, v)
	}
}

func activeMask(c *compiler, _ string, m *modifiers) op {
	c.count(1)
	t := m.typ()
	c.want(t, "b", 32)
	d, _ := c.destination(c.at.operands[0], t, false)
	return func(w *warp, m uint32) { lanes(m, func(l int) { w.regs[d][l] = uint64(m) }) }
}

// fence orders memory between threads that synchronise by other means, of which there
// are none but barriers: it does nothing.
func fence(c *compiler, _ string, m *modifiers) op {
	c.count(0)
	m.of("sc", "acq_rel")
	if m.of("cta", "gl", "gpu", "sys") == "" {
		c.unknown()
	}
	return func(*warp, uint32) {}
}

// warpBarrier is bar.warp.sync; bar.sync ends a block.
func warpBarrier(c *compiler, _ string, m *modifiers) op {
	c.count(1)
	if !m.has("warp") || !m.has("sync") {
		c.unknown()
	}
	mask := c.operand(c.at.operands[0], typ{'b', 32})
	return func(w *warp, m uint32) {
		w.here(m, &w.regs[mask])
		// Only a barrier of all lanes orders accesses here: of some, it would have to be
		// kept per lane.
		if m != w.all {
			return
		}
		if w.synced++; w.synced > mostSyncs && w.run.races {
			w.fault(Limit, 0, "more than %d barriers of a warp between two of the block, of which the search for races keeps no book", mostSyncs)
		}
	}
}

func funnel(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	c.want(t, "b", 32)
	way, mode := m.of("l", "r"), m.of("wrap", "clamp")
	if way == "" || mode == "" {
		c.unknown()
	}
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	return each3(d, c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], typ{'u', 32}), func(lo, hi, n uint64) uint64 {
		if mode == "wrap" {
			n &= 31
		} else {
			n = min(n, 32)
		}
		v := hi<<32 | lo
		if way == "l" {
			return v << n >> 32
		}
		return v >> n & math.MaxUint32
	})
}

func extract(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	c.want(t, "us", 32, 64)
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	u := typ{'u', 32}
	top := uint64(t.bits - 1)
	return each3(d, c.operand(o[1], t), c.operand(o[2], u), c.operand(o[3], u), func(x, at, n uint64) uint64 {
		at, n = at&255, n&255
		var s uint64 // the sign, with which the result is filled
		if t.kind == 's' && n > 0 {
			s = x >> min(at+n-1, top) & 1
		}
		var r uint64
		for i := range uint64(t.bits) {
			b := s
			if i < n && at+i <= top {
				b = x >> (at + i) & 1
			}
			r |= b << i
		}
		return r
	})
}

func insert(c *compiler, _ string, m *modifiers) op {
	c.count(5)
	t := m.typ()
	c.want(t, "b", 32, 64)
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	u := typ{'u', 32}
	a, b, at, n := c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], u), c.operand(o[4], u)
	return func(w *warp, m uint32) {
		lanes(m, func(l int) {
			x, r := w.regs[a][l], w.regs[b][l]
			from, n := w.regs[at][l]&255, w.regs[n][l]&255
			for i := uint64(0); i < n && from+i < uint64(t.bits); i++ {
				r = r&^(1<<(from+i)) | x>>i&1<<(from+i)
			}
			w.regs[d][l] = r
		})
	}
}

func permute(c *compiler, _ string, m *modifiers) op {
	c.count(4)
	t := m.typ()
	c.want(t, "b", 32)
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	return each3(d, c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], t), func(x, y, selector uint64) uint64 {
		v := y<<32 | x
		var r uint64
		for i := range 4 {
			s := selector >> (4 * i) & 15
			b := v >> (8 * (s & 7)) & 255
			if s&8 != 0 { // its sign, in all bits
				b = uint64(int64(int8(b))>>7) & 255
			}
			r |= b << (8 * i)
		}
		return r
	})
}

func logic3(c *compiler, _ string, m *modifiers) op {
	c.count(5)
	t := m.typ()
	c.want(t, "b", 32)
	o := c.at.operands
	if o[4].kind != integer || o[4].bits > 255 {
		c.unknown()
	}
	table := o[4].bits
	d, _ := c.destination(o[0], t, false)
	return each3(d, c.operand(o[1], t), c.operand(o[2], t), c.operand(o[3], t), func(x, y, z uint64) uint64 {
		var r uint64
		for i := range uint64(8) {
			if table>>i&1 == 0 {
				continue
			}
			term := uint64(math.MaxUint32)
			for j, v := range [3]uint64{z, y, x} {
				if i>>j&1 == 0 {
					v = ^v
				}
				term &= v
			}
			r |= term
		}
		return r
	})
}

// copySign gives b the sign of a.
func copySign(c *compiler, _ string, m *modifiers) op {
	c.count(3)
	t := m.typ()
	c.want(t, "f", 32, 64)
	o := c.at.operands
	d, _ := c.destination(o[0], t, false)
	top := uint64(1) << (t.bits - 1)
	return each2(d, c.operand(o[1], t), c.operand(o[2], t), func(x, y uint64) uint64 { return y&^top | x&top })
}

func testProperty(c *compiler, _ string, m *modifiers) op {
	c.count(2)
	t := m.typ()
	c.want(t, "f", 32, 64)
	property := m.of("finite", "infinite", "number", "notanumber", "normal", "subnormal")
	if property == "" {
		c.unknown()
	}
	d, a := c.predicate(c.at.operands[0]), c.operand(c.at.operands[1], t)
	least := 0x1p-126
	if t.bits == 64 {
		least = 0x1p-1022
	}
	return func(w *warp, m uint32) {
		var r uint32
		lanes(m, func(l int) {
			v := math.Abs(floatOf(w.regs[a][l], t))
			inf, nan := v > math.MaxFloat64, v != v
			yes := map[string]bool{"finite": !inf && !nan, "infinite": inf, "number": !nan, "notanumber": nan,
				"normal": v >= least && !inf, "subnormal": v > 0 && v < least}[property]
			if yes {
				r |= 1 << l
			}
		})
		w.into(d, m, r)
	}
}
