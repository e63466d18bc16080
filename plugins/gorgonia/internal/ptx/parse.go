package ptx

import (
	"fmt"
	"strconv"
	"strings"
)

// Error is a text that Load does not take.
type Error struct {
	Line int
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("PTX, line %d: %s", e.Line, e.Text) }

// token is a word, a number, a string or one character of punctuation.
type token struct {
	text string
	line int
}

// word reports the characters of names, opcodes and numbers.
func word(c byte) bool {
	return c == '_' || c == '$' || c == '%' || c == '.' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// tokens splits a text, of which it drops comments and space.
func tokens(text string) []token {
	var all []token
	line := 1
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case strings.HasPrefix(text[i:], "//"):
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case strings.HasPrefix(text[i:], "/*"):
			end := strings.Index(text[i+2:], "*/")
			if end < 0 {
				panic(&Error{line, "a comment has no end"})
			}
			line += strings.Count(text[i:i+2+end], "\n")
			i += end + 4
		case c == '"':
			end := strings.IndexAny(text[i+1:], "\"\n")
			if end < 0 || text[i+1+end] == '\n' {
				panic(&Error{line, "a string has no end"})
			}
			all = append(all, token{text[i : i+end+2], line})
			i += end + 2
		case word(c):
			start := i
			for i < len(text) && (word(text[i]) || strings.HasPrefix(text[i:], "::")) {
				if text[i] == ':' {
					i++ // as in .L2::128B
				}
				i++
			}
			all = append(all, token{text[start:i], line})
		default:
			all = append(all, token{text[i : i+1], line})
			i++
		}
	}
	return append(all, token{"", line})
}

// A statement of a kernel: a label, or an instruction.
type statement struct {
	line     int
	label    string
	guard    string // the predicate register, "" for none
	unless   bool   // the guard is negated
	opcode   string
	operands []operand
	scope    *scope
}

func (s *statement) String() string {
	text := make([]string, len(s.operands))
	for i, o := range s.operands {
		text[i] = o.String()
	}
	return strings.TrimSpace(s.opcode + " " + strings.Join(text, ", "))
}

type operandKind int

const (
	named    operandKind = iota // a register, a label or a variable
	integer                     // bits, of any width
	float32s                    // 0f…
	float64s                    // 0d…
	address                     // [name + offset]
	list                        // {…} or a pair a|b
)

type operand struct {
	kind   operandKind
	name   string
	unless bool // !p
	bits   uint64
	minus  bool // the integer was written with a sign
	offset int64
	parts  []operand
}

func (o operand) String() string {
	switch o.kind {
	case integer:
		if o.minus {
			return strconv.FormatInt(int64(o.bits), 10)
		}
		return strconv.FormatUint(o.bits, 10)
	case float32s:
		return fmt.Sprintf("0f%08X", o.bits)
	case float64s:
		return fmt.Sprintf("0d%016X", o.bits)
	case address:
		if o.offset != 0 {
			return fmt.Sprintf("[%s+%d]", o.name, o.offset)
		}
		return "[" + o.name + "]"
	case list:
		var text []string
		for _, p := range o.parts {
			text = append(text, p.String())
		}
		return "{" + strings.Join(text, ", ") + "}"
	}
	if o.unless {
		return "!" + o.name
	}
	return o.name
}

// register is a declared register: what it holds, and its place among the vectors, or
// among the masks where it is a predicate.
type register struct {
	typ   typ
	place int
}

// scope is a block {…} of declarations.
type scope struct {
	outer *scope
	names map[string]register
}

func (s *scope) find(name string) (register, bool) {
	for ; s != nil; s = s.outer {
		if r, ok := s.names[name]; ok {
			return r, true
		}
	}
	return register{}, false
}

// variable is an array of .shared or .const memory.
type variable struct {
	offset, bytes int
	constant      bool
	dynamic       bool // its length is that which the launch gives
}

// source is a kernel as it is written.
type source struct {
	line       int
	params     []Param
	variables  map[string]variable
	shared     int // bytes, of declared size
	dynamic    bool
	maxThreads int
	statements []statement
	vectors    int // registers, without the predicates
	masks      int // predicates
	labels     map[string]bool
}

// Bounds of what a text may ask for; those of devices, where they have them.
const (
	mostRegisters = 1 << 16
	mostShared    = 48 << 10 // without the attribute that a kernel asks for more with
	mostConstant  = 64 << 10
	mostParams    = 4352
)

type parser struct {
	all       []token
	next      int
	module    *Module
	variables map[string]variable // of the module
	shared    int                 // bytes of the module's own variables
	dynamic   bool
}

func (p *parser) fail(format string, args ...any) {
	panic(&Error{p.peek().line, fmt.Sprintf(format, args...)})
}

func (p *parser) peek() token { return p.all[p.next] }

func (p *parser) take() token {
	t := p.all[p.next]
	if t.text == "" {
		p.fail("the text ends in the middle")
	}
	p.next++
	return t
}

func (p *parser) accept(text string) bool {
	if p.peek().text == text {
		p.next++
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if t := p.peek(); t.text != text {
		p.fail("%q where %q should be", t.text, text)
	}
	p.next++
}

func (p *parser) name() string {
	t := p.take()
	if !word(t.text[0]) || t.text[0] == '.' || '0' <= t.text[0] && t.text[0] <= '9' {
		p.next--
		p.fail("%q where a name should be", t.text)
	}
	return t.text
}

// number reads an integer that is not negative and at most most.
func (p *parser) number(most int) int {
	t := p.peek()
	n, err := strconv.ParseUint(strings.TrimSuffix(t.text, "U"), 0, 64)
	if err != nil || n > uint64(most) {
		p.fail("%q where a number up to %d should be", t.text, most)
	}
	p.next++
	return int(n)
}

// parse reads a module's text up to its kernels' statements.
func (p *parser) parse() map[string]*source {
	kernels := map[string]*source{}
	for p.peek().text != "" {
		switch t := p.take(); t.text {
		case ".version":
			p.module.Version = p.take().text
		case ".target":
			p.module.Target = p.take().text
			for p.accept(",") {
				p.take()
			}
		case ".address_size":
			if n := p.number(64); n != 64 {
				p.next--
				p.fail("addresses of %d bits, only 64 are executed", n)
			}
		case ".visible", ".weak", ".extern":
		case ".file", ".loc":
			p.skipLine(t.line)
		case ".shared", ".const", ".global":
			p.variable(t.text, p.variables)
		case ".entry":
			name := p.name()
			if kernels[name] != nil {
				p.fail("there are two kernels %s", name)
			}
			kernels[name] = p.kernel(t.line)
		default:
			p.next--
			p.fail("%q is no directive that is executed", t.text)
		}
	}
	return kernels
}

func (p *parser) skipLine(line int) {
	for p.peek().line == line && p.peek().text != "" {
		p.next++
	}
}

// variable reads the declaration of an array, or of a single element.
func (p *parser) variable(space string, into map[string]variable) {
	align := 1
	if p.accept(".align") {
		align = p.number(256)
	}
	t, ok := typeOf(strings.TrimPrefix(p.take().text, "."))
	if !ok || t.kind == 'p' {
		p.fail("%q is no type of a variable", p.all[p.next-1].text)
	}
	size := t.bits / 8
	align = max(align, size)
	if align&(align-1) != 0 {
		p.fail("an alignment of %d", align)
	}
	name := p.name()
	count, open := 1, false
	for p.accept("[") {
		if p.accept("]") {
			open = true
			continue
		}
		if count *= p.number(1 << 20); count > 1<<20 {
			p.fail("%s is too large", name)
		}
		p.expect("]")
	}
	if _, twice := into[name]; twice {
		p.fail("there are two variables %s", name)
	}
	switch space {
	case ".shared":
		v := variable{offset: (p.shared + align - 1) &^ (align - 1), bytes: count * size, dynamic: open}
		if open {
			p.dynamic = true
			v.bytes = 0
		} else if p.shared = v.offset + v.bytes; p.shared > mostShared {
			p.fail("more than %d bytes of shared memory", mostShared)
		}
		into[name] = v
	case ".const":
		m := p.module
		v := variable{offset: (len(m.constants) + align - 1) &^ (align - 1), bytes: count * size, constant: true}
		if v.offset+v.bytes > mostConstant {
			p.fail("more than %d bytes of constants", mostConstant)
		}
		m.constants = append(m.constants, make([]byte, v.offset+v.bytes-len(m.constants))...)
		if p.accept("=") {
			p.values(t, m.constants[v.offset:])
		}
		into[name] = v
	default:
		p.fail("variables in %s memory are not executed", space)
	}
	p.expect(";")
}

// values reads the initial value of a variable.
func (p *parser) values(t typ, into []byte) {
	size := t.bits / 8
	one := func() {
		if len(into) < size {
			p.fail("more values than the variable has elements")
		}
		o := p.operand()
		putBytes(into[:size], p.immediate(o, t))
		into = into[size:]
	}
	if !p.accept("{") {
		one()
		return
	}
	for {
		one()
		if !p.accept(",") {
			break
		}
	}
	p.expect("}")
}

// immediate is the bits of a constant of type t.
func (p *parser) immediate(o operand, t typ) uint64 {
	bits, problem := t.immediate(o)
	if problem != "" {
		p.fail("%s", problem)
	}
	return bits
}

func (p *parser) kernel(line int) *source {
	k := &source{line: line, variables: map[string]variable{}, labels: map[string]bool{}}
	if p.accept("(") {
		offset := 0
		for !p.accept(")") {
			p.expect(".param")
			align := 1
			if p.accept(".align") {
				align = p.number(256)
			}
			t, ok := typeOf(strings.TrimPrefix(p.take().text, "."))
			if !ok || t.kind == 'p' {
				p.fail("%q is no type of a parameter", p.all[p.next-1].text)
			}
			size := t.bits / 8
			align = max(align, size)
			for p.accept(".ptr") || p.accept(".global") { // what the compiler knows of a pointer
				if p.accept(".align") {
					p.number(256)
				}
			}
			q := Param{Name: p.name(), Bytes: size}
			if p.accept("[") {
				q.Bytes *= p.number(mostParams)
				p.expect("]")
			}
			if align&(align-1) != 0 {
				p.fail("an alignment of %d", align)
			}
			offset = (offset + align - 1) &^ (align - 1)
			q.Offset = offset
			if offset += q.Bytes; offset > mostParams {
				p.fail("more than %d bytes of parameters", mostParams)
			}
			k.params = append(k.params, q)
			if !p.accept(",") {
				p.expect(")")
				break
			}
		}
	}
	for {
		switch t := p.take(); t.text {
		case ".maxntid", ".reqntid":
			k.maxThreads = p.number(1024)
			for p.accept(",") {
				if k.maxThreads *= p.number(1024); k.maxThreads > 1024 {
					p.fail("more than 1024 threads")
				}
			}
			continue
		case ".minnctapersm", ".maxnreg":
			p.number(1 << 16)
			continue
		case "{":
		default:
			p.next--
			p.fail("%q where a kernel should begin", t.text)
		}
		break
	}
	shared, dynamic := p.shared, p.dynamic // what follows is the kernel's own
	p.body(k, &scope{names: map[string]register{}})
	k.shared, k.dynamic = p.shared, p.dynamic
	p.shared, p.dynamic = shared, dynamic
	return k
}

// body reads up to the brace that closes a scope.
func (p *parser) body(k *source, s *scope) {
	for !p.accept("}") {
		t := p.take()
		switch {
		case t.text == "{":
			p.body(k, &scope{outer: s, names: map[string]register{}})
		case t.text == ".reg":
			p.registers(k, s)
		case t.text == ".shared":
			p.variable(t.text, k.variables)
		case t.text == ".local":
			p.fail("local memory is not executed: the kernel has an array that the compiler could not keep in registers")
		case t.text == ".pragma":
			p.take()
			p.expect(";")
		case t.text == ".loc" || t.text == ".file":
			p.skipLine(t.line)
		case p.peek().text == ":":
			if k.labels[t.text] {
				p.fail("there are two labels %s", t.text)
			}
			p.next++
			k.labels[t.text] = true
			k.statements = append(k.statements, statement{line: t.line, label: t.text})
		default:
			p.next--
			k.statements = append(k.statements, p.statement(s))
		}
	}
}

// registers reads the rest of .reg .type names.
func (p *parser) registers(k *source, s *scope) {
	t, ok := typeOf(strings.TrimPrefix(p.take().text, "."))
	if !ok {
		p.fail("%q is no type of a register", p.all[p.next-1].text)
	}
	declare := func(name string) {
		if _, twice := s.names[name]; twice {
			p.fail("there are two registers %s", name)
		}
		r := register{typ: t}
		if t.kind == 'p' {
			r.place = k.masks
			k.masks++
		} else {
			r.place = k.vectors
			k.vectors++
		}
		if k.masks+k.vectors > mostRegisters {
			p.fail("more than %d registers", mostRegisters)
		}
		s.names[name] = r
	}
	for {
		name := p.name()
		if p.accept("<") {
			n := p.number(mostRegisters)
			p.expect(">")
			for i := range n {
				declare(name + strconv.Itoa(i))
			}
		} else {
			declare(name)
		}
		if !p.accept(",") {
			break
		}
	}
	p.expect(";")
}

func (p *parser) statement(s *scope) statement {
	st := statement{line: p.peek().line, scope: s}
	if p.accept("@") {
		st.unless = p.accept("!")
		st.guard = p.name()
	}
	st.opcode = p.name()
	for p.peek().text != ";" {
		o := p.operand()
		if p.accept("|") { // d|p
			o = operand{kind: list, parts: []operand{o, p.operand()}}
		}
		if st.operands = append(st.operands, o); len(st.operands) > 8 {
			p.fail("%s has too many operands", st.opcode)
		}
		if !p.accept(",") {
			break
		}
	}
	p.expect(";")
	return st
}

func (p *parser) operand() operand {
	switch t := p.take(); {
	case t.text == "{":
		o := operand{kind: list}
		for {
			o.parts = append(o.parts, p.simple())
			if !p.accept(",") {
				break
			}
		}
		p.expect("}")
		return o
	case t.text == "[":
		o := p.simple()
		switch o.kind {
		case named:
			o.kind = address
		case integer:
			o = operand{kind: address, offset: int64(o.bits)}
		default:
			p.fail("an address of %s", o)
		}
		if p.accept("+") {
			off := p.simple()
			if off.kind != integer {
				p.fail("an offset of %s", off)
			}
			o.offset += int64(off.bits)
		}
		p.expect("]")
		return o
	}
	p.next--
	return p.simple()
}

// simple reads a name or a constant.
func (p *parser) simple() operand {
	if p.accept("!") {
		return operand{kind: named, name: p.name(), unless: true}
	}
	minus := p.accept("-")
	t := p.take()
	switch c := t.text[0]; {
	case len(t.text) == 10 && (strings.HasPrefix(t.text, "0f") || strings.HasPrefix(t.text, "0F")) && !minus:
		if bits, err := strconv.ParseUint(t.text[2:], 16, 32); err == nil {
			return operand{kind: float32s, bits: bits}
		}
	case len(t.text) == 18 && (strings.HasPrefix(t.text, "0d") || strings.HasPrefix(t.text, "0D")) && !minus:
		if bits, err := strconv.ParseUint(t.text[2:], 16, 64); err == nil {
			return operand{kind: float64s, bits: bits}
		}
	case '0' <= c && c <= '9':
		bits, err := strconv.ParseUint(strings.TrimSuffix(t.text, "U"), 0, 64)
		if err == nil && !(minus && bits > 1<<63) {
			if minus {
				bits = -bits
			}
			return operand{kind: integer, bits: bits, minus: minus}
		}
	case word(c) && c != '.' && !minus:
		return operand{kind: named, name: t.text}
	}
	p.next--
	p.fail("%q where an operand should be", t.text)
	return operand{}
}
