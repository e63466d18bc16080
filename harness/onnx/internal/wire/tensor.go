package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/half"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxRank is far above what an image network uses.
const MaxRank = 16

// Tensor is an initialiser or the tensor of an attribute. Its data are known
// to fill its shape.
type Tensor struct {
	Name     string
	Dims     []int
	Type     Type
	Len      int       // elements
	External *External // where its data lie, nil for data in the file
	Raw      []byte    // the TensorProto
}

// External is a range of another file.
type External struct {
	Location string
	Offset   int64
	Length   int64 // −1: to the end of what the shape needs
}

// Array is a decoded tensor. Float16 and bfloat16 become float32, integers and
// truth values int64; both conversions are exact. Exactly one of the slices is
// used, none where there are no elements.
type Array struct {
	Shape []int
	Type  Type // in the file
	F32   []float32
	F64   []float64
	Ints  []int64
}

// Len is the number of elements.
func (a *Array) Len() int { return len(a.F32) + len(a.F64) + len(a.Ints) }

// external is the error of a tensor whose data nobody can give.
func (t *Tensor) external() error {
	return fmt.Errorf("tensor %q keeps its data in another file, %q: open the model by its path, beside that file", t.Name, t.External.Location)
}

// Bytes is the number of bytes of raw data that the tensor has.
func (t *Tensor) Bytes() int64 { return int64(t.Len) * int64(t.Type.bytes()) }

// Array decodes the tensor. read returns the bytes of external data, as many
// as Bytes says; nil refuses external data.
func (t *Tensor) Array(read func(*Tensor) ([]byte, error)) (*Array, error) {
	a := &Array{Shape: t.Dims, Type: t.Type}
	if t.External != nil {
		if read == nil {
			return nil, t.external()
		}
		raw, err := read(t)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		return a, a.fill(t, raw)
	}
	var raw []byte
	if err := fields(t.Raw, func(f field) error {
		switch f.num {
		case 9:
			raw = f.b
		case 4, 5, 7, 10, 11:
			return a.typed(f, t.Len)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	if raw != nil {
		return a, a.fill(t, raw)
	}
	return a, nil
}

// fill decodes raw little-endian data.
func (a *Array) fill(t *Tensor, raw []byte) error {
	if int64(len(raw)) != t.Bytes() {
		return fmt.Errorf("tensor %q: %d bytes do not fill shape %v of %s", t.Name, len(raw), t.Dims, t.Type)
	}
	n := t.Len
	if n == 0 {
		return nil
	}
	switch t.Type {
	case Float32:
		a.F32 = make([]float32, n)
		for i := range a.F32 {
			a.F32[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case Float16:
		a.F32 = make([]float32, n)
		for i := range a.F32 {
			a.F32[i] = half.Float32(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	case BFloat16:
		a.F32 = make([]float32, n)
		for i := range a.F32 {
			a.F32[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		}
	case Float64:
		a.F64 = make([]float64, n)
		for i := range a.F64 {
			a.F64[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
		}
	default:
		a.Ints = make([]int64, n)
		for i := range a.Ints {
			var v int64
			switch t.Type {
			case Uint8:
				v = int64(raw[i])
			case Int8:
				v = int64(int8(raw[i]))
			case Bool:
				if raw[i] != 0 {
					v = 1
				}
			case Uint16:
				v = int64(binary.LittleEndian.Uint16(raw[2*i:]))
			case Int16:
				v = int64(int16(binary.LittleEndian.Uint16(raw[2*i:])))
			case Uint32:
				v = int64(binary.LittleEndian.Uint32(raw[4*i:]))
			case Int32:
				v = int64(int32(binary.LittleEndian.Uint32(raw[4*i:])))
			case Int64:
				v = int64(binary.LittleEndian.Uint64(raw[8*i:]))
			case Uint64:
				u := binary.LittleEndian.Uint64(raw[8*i:])
				if u > math.MaxInt64 {
					return fmt.Errorf("tensor %q, element %d: %d is out of range", t.Name, i, u)
				}
				v = int64(u)
			}
			a.Ints[i] = v
		}
	}
	return nil
}

// typed appends the values of a typed field, n in all.
func (a *Array) typed(f field, n int) error {
	return f.values(func(v uint64) error {
		switch {
		case a.Type == Float32:
			if a.F32 == nil {
				a.F32 = make([]float32, 0, n)
			}
			a.F32 = append(a.F32, math.Float32frombits(uint32(v)))
		case a.Type == Float64:
			if a.F64 == nil {
				a.F64 = make([]float64, 0, n)
			}
			a.F64 = append(a.F64, math.Float64frombits(v))
		case a.Type == Float16 || a.Type == BFloat16:
			if v > math.MaxUint16 {
				return fmt.Errorf("%d is no %s", v, a.Type)
			}
			if a.F32 == nil {
				a.F32 = make([]float32, 0, n)
			}
			if a.Type == Float16 {
				a.F32 = append(a.F32, half.Float32(uint16(v)))
			} else {
				a.F32 = append(a.F32, math.Float32frombits(uint32(v)<<16))
			}
		default:
			x := int64(v)
			if f.num == 5 { // int32 values, written with or without extension of the sign
				x = int64(int32(v))
			}
			if least, most := a.Type.Range(); x < least || x > most || a.Type == Uint64 && x < 0 {
				return fmt.Errorf("%d is no %s", x, a.Type)
			}
			if a.Ints == nil {
				a.Ints = make([]int64, 0, n)
			}
			a.Ints = append(a.Ints, x)
		}
		return nil
	})
}

// typedFields gives the field of onnx.proto that holds typed data of a type.
var typedFields = map[Type]protowire.Number{
	Float32: 4, Float64: 10, Int64: 7, Uint32: 11, Uint64: 11,
	Int32: 5, Int16: 5, Int8: 5, Uint16: 5, Uint8: 5, Bool: 5, Float16: 5, BFloat16: 5,
}

func (f field) tensor() (*Tensor, error) {
	if err := f.want(protowire.BytesType); err != nil {
		return nil, err
	}
	s := &tensorScan{t: &Tensor{Raw: f.b}, external: External{Length: -1}}
	if err := fields(f.b, s.field); err != nil {
		return nil, fmt.Errorf("tensor %q: %w", s.t.Name, err)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.t, nil
}

// tensorScan is what the fields of a TensorProto say, without their data.
type tensorScan struct {
	t        *Tensor
	hasRaw   bool
	raw      int              // bytes
	values   int              // of typed data
	in       protowire.Number // their field, −1 if there are several
	outside  bool             // the data lie in another file
	external External
	entries  int // that describe it
}

func (s *tensorScan) field(f field) error {
	switch f.num {
	case 1:
		if f.typ == protowire.VarintType {
			return s.t.addDim(f.n)
		}
		return f.values(s.t.addDim)
	case 2:
		var n int64
		err := f.int(&n)
		s.t.Type = Type(n)
		return err
	case 3:
		return errors.New("is stored in segments, which are not supported")
	case 4, 5, 7, 10, 11:
		n, err := f.count()
		if n > 0 && s.values > 0 && s.in != f.num {
			s.in = -1
		} else if n > 0 {
			s.in = f.num
		}
		s.values += n
		return err
	case 6:
		return errors.New("has data of type string, which is not supported")
	case 8:
		return f.text(&s.t.Name)
	case 9:
		if s.hasRaw {
			return errors.New("has its data twice")
		}
		s.hasRaw, s.raw = true, len(f.b)
		return f.want(protowire.BytesType)
	case 13:
		if s.entries++; s.entries > 16 {
			return errors.New("describes its data in another file by more than 16 entries")
		}
		return s.external.entry(f)
	case 14:
		s.outside = f.n != 0
		return f.want(protowire.VarintType)
	}
	return nil
}

// check counts the elements and refuses data that do not fill them.
func (s *tensorScan) check() error {
	t := s.t
	if t.Type.bytes() == 0 {
		return fmt.Errorf("tensor %q has type %s, which is not supported", t.Name, t.Type)
	}
	t.Len = 1
	for _, d := range t.Dims {
		if d != 0 && t.Len > math.MaxInt32/d {
			return fmt.Errorf("tensor %q: shape %v is larger than any file can hold", t.Name, t.Dims)
		}
		t.Len *= d
	}
	switch {
	case s.outside && (s.hasRaw || s.values > 0):
		return fmt.Errorf("tensor %q has data in this file and in another", t.Name)
	case s.outside && s.external.Location == "":
		return fmt.Errorf("tensor %q keeps its data in another file and does not say which", t.Name)
	case s.outside && s.external.Length >= 0 && s.external.Length != t.Bytes():
		return fmt.Errorf("tensor %q: %d bytes of %q do not fill shape %v of %s", t.Name, s.external.Length, s.external.Location, t.Dims, t.Type)
	case s.outside:
		external := s.external
		t.External = &external
	case s.hasRaw && s.values > 0:
		return fmt.Errorf("tensor %q has both raw and typed data", t.Name)
	case s.hasRaw && int64(s.raw) != t.Bytes():
		return fmt.Errorf("tensor %q: %d bytes do not fill shape %v of %s", t.Name, s.raw, t.Dims, t.Type)
	case !s.hasRaw && s.values != t.Len:
		return fmt.Errorf("tensor %q: %d values do not fill shape %v", t.Name, s.values, t.Dims)
	case s.values > 0 && s.in != typedFields[t.Type]:
		return fmt.Errorf("tensor %q of %s has its data in the field of another type", t.Name, t.Type)
	}
	return nil
}

func (t *Tensor) addDim(v uint64) error {
	if int64(v) < 0 || v > math.MaxInt32 {
		return fmt.Errorf("dimension %d is out of range", int64(v))
	}
	if len(t.Dims) == MaxRank {
		return fmt.Errorf("has more than %d dimensions", MaxRank)
	}
	t.Dims = append(t.Dims, int(v))
	return nil
}

// entry reads one pair of a description of external data.
func (e *External) entry(f field) error {
	k, v, err := f.entry()
	if err != nil {
		return err
	}
	number := func(n *int64) error {
		x, err := strconv.ParseInt(v, 10, 64)
		if err != nil || x < 0 {
			return fmt.Errorf("external data with %s = %q", k, v)
		}
		*n = x
		return nil
	}
	switch k {
	case "location":
		e.Location = v
	case "offset":
		return number(&e.Offset)
	case "length":
		return number(&e.Length)
	}
	return nil // a checksum, or what later versions add
}

// elements is the wire type of the values of a repeated field, and their size where
// that is fixed.
func (f field) elements() (elem protowire.Type, size int) {
	switch f.num {
	case 4:
		return protowire.Fixed32Type, 4
	case 10:
		return protowire.Fixed64Type, 8
	}
	return protowire.VarintType, 0
}

// count is the number of values in a typed field of a tensor, packed or not.
func (f field) count() (int, error) {
	elem, size := f.elements()
	if f.typ == elem {
		return 1, nil
	}
	if size > 0 {
		if err := f.want(protowire.BytesType); err != nil {
			return 0, err
		}
		if len(f.b)%size != 0 {
			return 0, fmt.Errorf("damaged: %d bytes in field %d are no whole number of values", len(f.b), f.num)
		}
		return len(f.b) / size, nil
	}
	n := 0
	err := f.values(func(uint64) error { n++; return nil })
	return n, err
}

// values calls g with every value of a repeated field, packed or not.
func (f field) values(g func(v uint64) error) error {
	elem, _ := f.elements()
	return f.repeated(elem, g)
}

// repeated calls g with every value of a repeated field of the given wire type,
// packed or not.
func (f field) repeated(elem protowire.Type, g func(v uint64) error) error {
	if f.typ == elem {
		return g(f.n)
	}
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	for b := f.b; len(b) > 0; {
		var v uint64
		var n int
		switch elem {
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v = uint64(x)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		default:
			v, n = protowire.ConsumeVarint(b)
		}
		if n < 0 {
			return fmt.Errorf("damaged: field %d: %w", f.num, protowire.ParseError(n))
		}
		if err := g(v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
