package study

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Bounds of a spec file; the shipped ones have 6 KiB. The TOML library's cost
// grows with the square of the nesting, so that is limited by counting what can
// nest: dots and brackets on one line, inline tables in all.
const (
	maxFileSize     = 256 << 10
	maxNesting      = 250
	maxInlineTables = 250
)

// maxProblems is how many mistakes an Error lists before it only counts them.
const maxProblems = 20

// Problem is one mistake in a spec.
type Problem struct {
	Line    int    // first line of the key's value, 0 where there is no file
	Key     string // dotted, as in "profile.smoke.network.width"
	Message string // what is wrong, and the nearest valid key or value

	path []string
}

// Error is everything that is wrong with a spec, in the order of the file.
type Error struct {
	File     string // empty for a Study that was not read from a file
	Problems []Problem
	Omitted  int // further problems not listed
}

// Error has one line per problem.
func (e *Error) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		if e.File != "" {
			fmt.Fprintf(&b, "%s:%d: ", e.File, max(p.Line, 1))
		}
		if p.Key != "" {
			b.WriteString(p.Key + ": ")
		}
		b.WriteString(p.Message)
	}
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.Omitted)
	}
	return b.String()
}

// document is a parsed TOML file whose keys can be traced back to lines.
type document struct {
	raw  map[string]any
	root map[string]toml.Primitive
	md   toml.MetaData
}

// parseDocument reads TOML. The library reports a syntax error as a ParseError,
// except for a few that it treats as its own bugs and panics with.
func parseDocument(name string, data []byte) (doc *document, err error) {
	defer func() {
		if r := recover(); r != nil {
			doc, err = nil, &Error{File: name, Problems: []Problem{{Message: fmt.Sprintf("cannot be read as TOML: %v", r)}}}
		}
	}()
	if line, what := excess(data); what != "" {
		return nil, &Error{File: name, Problems: []Problem{{Line: line, Message: what}}}
	}
	d := &document{raw: map[string]any{}, root: map[string]toml.Primitive{}}
	if d.md, err = toml.Decode(string(data), &d.root); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return nil, &Error{File: name, Problems: []Problem{{Line: pe.Position.Line, Key: pe.LastKey, Message: pe.Message}}}
		}
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	for k, p := range d.root {
		d.raw[k] = d.value(p)
	}
	return d, nil
}

// excess finds what is too much for a spec.
func excess(data []byte) (line int, what string) {
	if len(data) > maxFileSize {
		return 1, fmt.Sprintf("more than %d bytes are too many for a spec", maxFileSize)
	}
	tables := 0
	for l := range bytes.Lines(data) {
		line++
		if bytes.HasPrefix(bytes.TrimSpace(l), []byte("#")) {
			continue
		}
		t := bytes.Count(l, []byte("{"))
		tables += t
		if t+bytes.Count(l, []byte("["))+bytes.Count(l, []byte(".")) > maxNesting {
			return line, fmt.Sprintf("more than %d dots and brackets on one line; break the line", maxNesting)
		}
		if tables > maxInlineTables {
			return line, fmt.Sprintf("more than %d inline tables { }; write tables [ ] instead", maxInlineTables)
		}
	}
	return 0, ""
}

func (d *document) value(p toml.Primitive) (v any) {
	// Decoding into an empty interface cannot fail.
	_ = d.md.PrimitiveDecode(p, &v)
	return v
}

// positionProbe makes the library say where a value is: it refuses every value,
// and the library's error then carries the position, which it keeps to itself
// otherwise.
type positionProbe struct{}

var errProbe = errors.New("position probe")

func (positionProbe) UnmarshalTOML(any) error { return errProbe }

// line returns the line of the deepest key of path that the file has, and how
// many keys of the path that is.
func (d *document) line(path []string) (line, depth int) {
	table := d.root
	for _, k := range path {
		p, ok := table[k]
		if !ok {
			break
		}
		depth++
		if l := d.probe(p); l > 0 {
			line = l
		}
		if table = d.table(p); table == nil {
			break
		}
	}
	return line, depth
}

func (d *document) table(p toml.Primitive) map[string]toml.Primitive {
	if _, ok := d.value(p).(map[string]any); !ok {
		return nil
	}
	var t map[string]toml.Primitive
	if d.md.PrimitiveDecode(p, &t) != nil {
		return nil
	}
	return t
}

// probe returns the line of a value; a table that only its sub-tables imply has
// the line of the first of them.
func (d *document) probe(p toml.Primitive) int {
	var pe toml.ParseError
	if errors.As(d.md.PrimitiveDecode(p, positionProbe{}), &pe) && pe.Position.Line > 0 {
		return pe.Position.Line
	}
	first := 0
	for _, sub := range d.table(p) {
		if l := d.probe(sub); l > 0 && (first == 0 || l < first) {
			first = l
		}
	}
	return first
}

// has reports whether the file sets exactly this key.
func (d *document) has(path []string) bool {
	var v any = d.raw
	for _, k := range path {
		t, ok := v.(map[string]any)
		if !ok {
			return false
		}
		if v, ok = t[k]; !ok {
			return false
		}
	}
	return true
}

// problems turns paths into lines and sorts by them.
func (d *document) problems(name string, found []Problem) error {
	if len(found) == 0 {
		return nil
	}
	e := &Error{File: name, Problems: found}
	if len(found) > maxProblems {
		e.Problems, e.Omitted = found[:maxProblems], len(found)-maxProblems
	}
	for i := range e.Problems {
		p := &e.Problems[i]
		p.Line, _ = d.line(p.path)
		p.Key = toml.Key(p.path).String()
	}
	slices.SortStableFunc(e.Problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return e
}

// decoder fills a Study from raw TOML values, field by field and strictly, and
// goes on after a mistake so that all of them can be reported.
type decoder struct {
	found []Problem
}

func (d *decoder) fail(path []string, format string, args ...any) {
	d.found = append(d.found, Problem{path: slices.Clone(path), Message: fmt.Sprintf(format, args...)})
}

// fields lists a struct's keys, in order, with the fields they set.
func fields(t reflect.Type) (names []string, index map[string]int) {
	index = map[string]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("spec") == "-" {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
		index[name] = i
	}
	return names, index
}

// assign stores v in dst; path names it in messages.
func (d *decoder) assign(path []string, v any, dst reflect.Value) {
	if s, ok := dst.Addr().Interface().(setter); ok {
		if problem := s.set(v); problem != "" {
			d.fail(path, "%s", problem)
		}
		return
	}
	switch dst.Kind() {
	case reflect.Struct:
		d.assignStruct(path, v, dst)
	case reflect.Map:
		d.assignMap(path, v, dst)
	case reflect.Slice:
		a, ok := v.([]any)
		if !ok {
			d.fail(path, "wants a list in [ ], not %s", describe(v))
			return
		}
		dst.Set(reflect.MakeSlice(dst.Type(), len(a), len(a)))
		for i := range a {
			d.assign(path, a[i], dst.Index(i))
		}
	case reflect.Array:
		a, ok := v.([]any)
		if !ok || len(a) != dst.Len() {
			d.fail(path, "wants a list of %d numbers, not %s", dst.Len(), describe(v))
			return
		}
		for i := range a {
			d.assign(path, a[i], dst.Index(i))
		}
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			d.fail(path, "wants a string in quotes, not %s", describe(v))
			return
		}
		dst.SetString(s)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			d.fail(path, "wants true or false, not %s", describe(v))
			return
		}
		dst.SetBool(b)
	case reflect.Int, reflect.Uint64:
		d.assignInteger(path, v, dst)
	case reflect.Float64:
		d.assignFloat(path, v, dst)
	default:
		panic("study: no way to decode into " + dst.Type().String())
	}
}

func (d *decoder) assignStruct(path []string, v any, dst reflect.Value) {
	t, ok := v.(map[string]any)
	if !ok {
		d.fail(path, "wants a table, not %s", describe(v))
		return
	}
	names, index := fields(dst.Type())
	for _, k := range keys(t) {
		p := append(path, k)
		if i, ok := index[k]; ok {
			d.assign(p, t[k], dst.Field(i))
		} else {
			d.fail(p, "unknown key%s", suggestKey(path, k, names))
		}
	}
}

// assignMap keeps the entries that v does not name.
func (d *decoder) assignMap(path []string, v any, dst reflect.Value) {
	t, ok := v.(map[string]any)
	if !ok {
		d.fail(path, "wants a table, not %s", describe(v))
		return
	}
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	for _, k := range keys(t) {
		e := reflect.New(dst.Type().Elem()).Elem()
		if old := dst.MapIndex(reflect.ValueOf(k)); old.IsValid() {
			e.Set(old)
		}
		d.assign(append(path, k), t[k], e)
		dst.SetMapIndex(reflect.ValueOf(k), e)
	}
}

func (d *decoder) assignInteger(path []string, v any, dst reflect.Value) {
	n, ok := v.(int64)
	switch signed := dst.Kind() == reflect.Int; {
	case !ok:
		d.fail(path, "wants a whole number, not %s", describe(v))
	case signed && n != int64(int32(n)):
		d.fail(path, "%d is out of range", n)
	case signed:
		dst.SetInt(n)
	case n < 0:
		d.fail(path, "must not be negative, but is %d", n)
	default:
		dst.SetUint(uint64(n))
	}
}

func (d *decoder) assignFloat(path []string, v any, dst reflect.Value) {
	switch n := v.(type) {
	case int64:
		dst.SetFloat(float64(n))
	case float64:
		if math.IsNaN(n) || math.IsInf(n, 0) {
			d.fail(path, "must be a finite number, but is %v", n)
			return
		}
		dst.SetFloat(n)
	default:
		d.fail(path, "wants a number, not %s", describe(v))
	}
}

// describe names a TOML value in a message.
func describe(v any) string {
	const most = 40
	switch v := v.(type) {
	case string:
		if len(v) > most {
			return "a long string"
		}
		return "the string " + strconv.Quote(v)
	case int64, float64, bool:
		return fmt.Sprint(v)
	case time.Time:
		return "a date"
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case []map[string]any:
		return "an array of tables"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("%T", v)
}

// suggestKey points from an unknown key to the valid one that was most probably
// meant: the same key in another table, else the nearest in its own.
func suggestKey(table []string, key string, siblings []string) string {
	if len(table) >= 2 && table[0] == "profile" {
		table = table[2:]
	}
	if len(table) == 0 {
		siblings = append(slices.Clone(siblings), "profile")
	}
	best, distance := nearest(key, siblings)
	if distance > 2 {
		for _, p := range allKeys() {
			if p[len(p)-1] == key {
				return fmt.Sprintf("; it belongs to the table [%s]", strings.Join(p[:len(p)-1], "."))
			}
		}
	}
	return "; nearest valid key: " + best
}

// allKeys lists the path of every key inside a table of a spec.
func allKeys() [][]string {
	var all [][]string
	var walk func(path []string, t reflect.Type)
	walk = func(path []string, t reflect.Type) {
		names, index := fields(t)
		for _, n := range names {
			p := append(slices.Clone(path), n)
			if len(p) > 1 {
				all = append(all, p)
			}
			if f := t.Field(index[n]).Type; f.Kind() == reflect.Struct {
				walk(p, f)
			}
		}
	}
	walk(nil, reflect.TypeFor[Study]())
	return all
}

// suggestValue points to the nearest of the valid values.
func suggestValue(v string, valid []string) string {
	best, _ := nearest(v, valid)
	if len(valid) <= 5 {
		return fmt.Sprintf("is %q; valid: %s", v, strings.Join(quoted(valid), ", "))
	}
	return fmt.Sprintf("is %q; nearest valid value: %q", v, best)
}

func quoted(s []string) []string {
	q := make([]string, len(s))
	for i := range s {
		q[i] = strconv.Quote(s[i])
	}
	return q
}

// nearest returns the candidate with the least edit distance to s, ignoring
// case; the first one of equals.
func nearest(s string, candidates []string) (best string, distance int) {
	distance = math.MaxInt
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(s), strings.ToLower(c)); d < distance {
			best, distance = c, d
		}
	}
	return best, distance
}

// editDistance is the number of insertions, deletions, replacements and swaps
// of neighbours that turn a into b (Levenshtein's, with transpositions).
func editDistance(a, b string) int {
	const longest = 64 // enough to tell keys apart, and bounds the work
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// keys returns a map's keys, sorted.
func keys[V any](m map[string]V) []string {
	k := make([]string, 0, len(m))
	for s := range m {
		k = append(k, s)
	}
	slices.Sort(k)
	return k
}
