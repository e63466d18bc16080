package ptx

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
)

// Module is a text that Load has taken.
type Module struct {
	Version, Target string
	kernels         map[string]*Kernel
	constants       []byte
	constant        *segment // that holds them
}

// Param is a parameter of a kernel: its place in the buffer that a launch passes.
type Param struct {
	Name          string
	Offset, Bytes int
}

// Kernel is a kernel that can be launched.
type Kernel struct {
	Name   string
	Params []Param
	// SharedBytes is the shared memory of declared size; a kernel whose Dynamic is set
	// takes more at launch.
	SharedBytes int
	Dynamic     bool
	// MaxThreads bounds the threads of a block.
	MaxThreads int
	// Registers is how many the text declares. A compiler for a device needs fewer.
	Registers int

	blocks   []block
	vectors  int // registers of a thread
	masks    int
	fixed    []fixed // registers that hold the same for the whole of a launch
	specials []special
	grain    int // bytes of the narrowest access
	module   *Module
}

// ParamBytes is the size of the buffer of parameters.
func (k *Kernel) ParamBytes() int {
	if len(k.Params) == 0 {
		return 0
	}
	last := k.Params[len(k.Params)-1]
	return last.Offset + last.Bytes
}

// fixed is a register that holds a constant.
type fixed struct {
	place int
	bits  uint64
}

// special is a register that holds where a thread is.
type special struct {
	place int
	value func(w *warp, lane int) uint64
}

// op executes an instruction for the lanes of a mask.
type op func(w *warp, m uint32)

// instruction is an op and what is said of it.
type instruction struct {
	run  op
	line int
	text string
	name string // the opcode, for counts
}

// block is a run of instructions that control enters at its beginning only.
type block struct {
	code []instruction
	end  end
	line int // of the end
	text string
}

// end is how control leaves a block. Lanes whose guard does not hold go on to the next.
type end struct {
	kind   endKind
	guard  int // a mask, or -1
	unless bool
	target int
	name   string // the opcode, "" where control falls through
}

type endKind int

const (
	falls endKind = iota
	branches
	returns
	waits // at a barrier
	traps
)

// taken is the lanes whose guard holds.
func (e *end) taken(w *warp, m uint32) uint32 {
	switch {
	case e.guard < 0:
		return m
	case e.unless:
		return m &^ w.masks[e.guard]
	}
	return m & w.masks[e.guard]
}

// Load reads PTX. An error is an *Error.
func Load(text string) (m *Module, err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Error:
			m, err = nil, v
		default:
			panic(v)
		}
	}()
	m = &Module{kernels: map[string]*Kernel{}}
	p := &parser{all: tokens(text), module: m, variables: map[string]variable{}}
	sources := p.parse()
	if m.Version == "" || m.Target == "" {
		panic(&Error{1, "a module begins with .version and .target"})
	}
	m.constant = newSegment("of constants", 0, len(m.constants))
	copy(m.constant.data, m.constants)
	for i := range m.constant.defined {
		m.constant.defined[i] = 1
	}
	for name, src := range sources {
		m.kernels[name] = compile(m, name, src, p.variables)
	}
	return m, nil
}

// Kernels are the names of the kernels, sorted.
func (m *Module) Kernels() []string { return slices.Sorted(maps.Keys(m.kernels)) }

// Kernel returns the kernel of a name, or nil.
func (m *Module) Kernel(name string) *Kernel { return m.kernels[name] }

// compiler turns a kernel's statements into ops.
type compiler struct {
	module   *Module
	src      *source
	globals  map[string]variable
	k        *Kernel
	at       *statement
	consts   map[uint64]int
	specials map[string]int
}

func compile(m *Module, name string, src *source, globals map[string]variable) *Kernel {
	k := &Kernel{Name: name, Params: src.params, SharedBytes: src.shared, Dynamic: src.dynamic, MaxThreads: src.maxThreads,
		Registers: src.vectors + src.masks, vectors: src.vectors, masks: src.masks, grain: 4, module: m}
	if k.MaxThreads == 0 {
		k.MaxThreads = 1024
	}
	c := &compiler{module: m, src: src, globals: globals, k: k, consts: map[uint64]int{}, specials: map[string]int{}}
	// Labels first: a branch may go forward.
	labels := map[string]int{}
	blocks := 0
	fresh := true // no instruction since the block began
	for i := range src.statements {
		s := &src.statements[i]
		switch {
		case s.label != "":
			if !fresh {
				blocks++
				fresh = true
			}
			labels[s.label] = blocks
		case ends(s.opcode):
			blocks++
			fresh = true
		default:
			fresh = false
		}
	}
	var b block
	next := func() {
		k.blocks = append(k.blocks, b)
		b = block{}
	}
	for i := range src.statements {
		s := &src.statements[i]
		c.at = s
		switch {
		case s.label != "":
			if len(b.code) > 0 {
				b.end.guard = -1
				next()
			}
		case ends(s.opcode):
			b.end, b.line, b.text = c.end(labels), s.line, s.String()
			next()
		default:
			run := c.instruction()
			if s.guard != "" {
				run = guarded(run, c.predicate(operand{name: s.guard}), s.unless)
			}
			b.code = append(b.code, instruction{run, s.line, s.String(), s.opcode})
		}
	}
	b.end = end{kind: returns, guard: -1} // as at the end of a function
	next()
	return k
}

// guarded executes an instruction where a predicate holds.
func guarded(run op, p int, unless bool) op {
	if unless {
		return func(w *warp, m uint32) {
			if m &^= w.masks[p]; m != 0 {
				run(w, m)
			}
		}
	}
	return func(w *warp, m uint32) {
		if m &= w.masks[p]; m != 0 {
			run(w, m)
		}
	}
}

// ends reports the opcodes that end a block of instructions.
func ends(opcode string) bool {
	switch first, _, _ := strings.Cut(opcode, "."); first {
	case "bra", "ret", "exit", "trap", "bar", "barrier":
		return !strings.HasPrefix(opcode, "bar.warp")
	}
	return false
}

// end compiles what ends a block.
func (c *compiler) end(labels map[string]int) end {
	s := c.at
	e := end{guard: -1, unless: s.unless, name: s.opcode}
	if s.guard != "" {
		e.guard = c.predicate(operand{name: s.guard})
	}
	switch s.opcode {
	case "bra", "bra.uni":
		c.count(1)
		target, ok := labels[s.operands[0].name]
		if !ok || s.operands[0].kind != named {
			c.fail("there is no label %s", s.operands[0])
		}
		e.kind, e.target = branches, target
	case "ret", "exit", "ret.uni":
		c.count(0)
		e.kind = returns
	case "trap":
		c.count(0)
		e.kind = traps
	case "bar.sync", "barrier.sync", "barrier.sync.aligned", "bar.cta.sync", "barrier.cta.sync", "barrier.cta.sync.aligned":
		c.count(1)
		if o := s.operands[0]; o.kind != integer || o.bits != 0 {
			c.fail("only barrier 0, of all threads of a block, is executed")
		}
		e.kind = waits
	default:
		c.unknown()
	}
	return e
}

// fail refuses the statement at hand.
func (c *compiler) fail(format string, args ...any) {
	panic(&Error{c.at.line, fmt.Sprintf("%s: kernel %s: %s", c.at, c.k.Name, fmt.Sprintf(format, args...))})
}

func (c *compiler) unknown() { c.fail("this instruction is not executed") }

// count checks how many operands there are.
func (c *compiler) count(n int) {
	if len(c.at.operands) != n {
		c.fail("%d operands where %d should be", len(c.at.operands), n)
	}
}

// predicate is the mask of a predicate register.
func (c *compiler) predicate(o operand) int {
	r, ok := c.at.scope.find(o.name)
	if o.kind != named || !ok || r.typ.kind != 'p' {
		c.fail("%s is no predicate register", o)
	}
	return r.place
}

// condition is a predicate that may be negated, or a constant.
func (c *compiler) condition(o operand) func(w *warp) uint32 {
	if o.kind == integer {
		v := uint32(0)
		if o.bits != 0 {
			v = fullWarp
		}
		return func(*warp) uint32 { return v }
	}
	p := c.predicate(o)
	if o.unless {
		return func(w *warp) uint32 { return ^w.masks[p] }
	}
	return func(w *warp) uint32 { return w.masks[p] }
}

// destination is the register that a result of type t goes to. "_" is one that nobody
// reads. Loads and conversions may go to a wider one.
func (c *compiler) destination(o operand, t typ, wider bool) (place int, reg typ) {
	if o.kind == named && o.name == "_" {
		return c.constant(0xdead_dead_dead_dead, true), typ{'b', 64}
	}
	r, ok := c.at.scope.find(o.name)
	if o.kind != named || o.unless || !ok || r.typ.kind == 'p' {
		c.fail("%s is no register of numbers", o)
	}
	c.fits(o, r.typ, t, wider)
	return r.place, r.typ
}

// fits checks a register against the type of an instruction as the assembler does.
func (c *compiler) fits(o operand, reg, t typ, wider bool) {
	if reg.bits != t.bits && !(wider && reg.bits > t.bits) {
		c.fail("%s has %d bits, %s takes %d", o, reg.bits, c.at.opcode, t.bits)
	}
	if kinds := string([]byte{reg.kind, t.kind}); !wider && (kinds == "fu" || kinds == "fs" || kinds == "uf" || kinds == "sf") {
		c.fail("%s is of type %s, the instruction of type %s", o, reg, t)
	}
}

// operand is the register that holds an operand of type t: one of the kernel's, one that
// says where the thread is, or one made for a constant or an address.
func (c *compiler) operand(o operand, t typ) int { return c.wide(o, t, false) }

func (c *compiler) wide(o operand, t typ, wider bool) int {
	if o.kind != named {
		bits, problem := t.immediate(o)
		if problem != "" {
			c.fail("%s", problem)
		}
		return c.constant(bits, false)
	}
	if o.unless {
		c.fail("%s is no number", o)
	}
	if r, ok := c.at.scope.find(o.name); ok {
		if r.typ.kind == 'p' {
			c.fail("%s is a predicate register", o)
		}
		c.fits(o, r.typ, t, wider)
		return r.place
	}
	if place, ok := c.specialRegister(o.name); ok {
		c.fits(o, typ{'u', 32}, t, true)
		return place
	}
	if v, ok := c.variable(o.name); ok {
		return c.constant(v, false)
	}
	c.fail("there is no register and no variable %s", o)
	return 0
}

// variable is the address of a variable within its kind of memory. Memory of the size
// that a launch gives lies behind all else.
func (c *compiler) variable(name string) (uint64, bool) {
	v, ok := c.src.variables[name]
	if !ok {
		v, ok = c.globals[name]
	}
	if v.dynamic {
		return uint64(c.k.sharedEnd()), ok
	}
	return uint64(v.offset), ok
}

// sharedEnd is where memory of the size that a launch gives begins.
func (k *Kernel) sharedEnd() int { return (k.SharedBytes + 15) &^ 15 }

// constant is a register that holds bits. A scratch one is written to as well.
func (c *compiler) constant(bits uint64, scratch bool) int {
	if !scratch {
		if place, ok := c.consts[bits]; ok {
			return place
		}
	}
	place := c.k.vectors
	c.k.vectors++
	if !scratch {
		c.consts[bits] = place
	}
	c.k.fixed = append(c.k.fixed, fixed{place, bits})
	return place
}

func (c *compiler) specialRegister(name string) (place int, ok bool) {
	if place, ok := c.specials[name]; ok {
		return place, true
	}
	var value func(w *warp, lane int) uint64
	axis := func(of func(w *warp, lane int) Dim) func(w *warp, lane int) uint64 {
		switch name[len(name)-1] {
		case 'x':
			return func(w *warp, lane int) uint64 { return uint64(of(w, lane).X) }
		case 'y':
			return func(w *warp, lane int) uint64 { return uint64(of(w, lane).Y) }
		}
		return func(w *warp, lane int) uint64 { return uint64(of(w, lane).Z) }
	}
	switch name {
	case "%tid.x", "%tid.y", "%tid.z":
		value = axis(func(w *warp, lane int) Dim { return w.run.threads.at(32*w.number + lane) })
	case "%ntid.x", "%ntid.y", "%ntid.z":
		value = axis(func(w *warp, lane int) Dim { return w.run.threads })
	case "%ctaid.x", "%ctaid.y", "%ctaid.z":
		value = axis(func(w *warp, lane int) Dim { return w.cta.where })
	case "%nctaid.x", "%nctaid.y", "%nctaid.z":
		value = axis(func(w *warp, lane int) Dim { return w.run.grid })
	case "%laneid":
		value = func(w *warp, lane int) uint64 { return uint64(lane) }
	case "%warpid":
		value = func(w *warp, lane int) uint64 { return uint64(w.number) }
	case "%lanemask_lt":
		value = func(w *warp, lane int) uint64 { return 1<<lane - 1 }
	case "%lanemask_eq":
		value = func(w *warp, lane int) uint64 { return 1 << lane }
	case "WARP_SZ":
		value = func(w *warp, lane int) uint64 { return 32 }
	default:
		return 0, false
	}
	place = c.k.vectors
	c.k.vectors++
	c.specials[name] = place
	c.k.specials = append(c.k.specials, special{place, value})
	return place, true
}

// popcount is the number of lanes of a mask.
func popcount(m uint32) int { return bits.OnesCount32(m) }
