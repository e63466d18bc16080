// Package safetensors reads and writes the safetensors container: an 8-byte
// little-endian header length, a JSON header naming each tensor's dtype, shape
// and byte range, then the raw little-endian data.
//
// It is the format in which refocus keeps images, labels, exit waves and
// network states, because every language a backend may be written in can read
// it without running code. The same tensors and metadata always give the same
// bytes. Reading trusts nothing: header size, ranges, overlaps, products of
// dimensions are all checked before anything is allocated.
//
// Format: https://huggingface.co/docs/safetensors
package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sort"
)

// maxHeader bounds the JSON header, as the reference implementation does.
const maxHeader = 100 << 20

// DType is a tensor's element type in the format's own spelling.
type DType string

// The element types refocus uses. Complex64 values are stored as F32 with a
// last dimension of 2.
const (
	F32 DType = "F32"
	F64 DType = "F64"
	U8  DType = "U8"
	I64 DType = "I64"
)

// Size returns the bytes per element, or 0 for a type this package does not read.
func (d DType) Size() int {
	switch d {
	case F32:
		return 4
	case F64, I64:
		return 8
	case U8:
		return 1
	}
	return 0
}

// Tensor is a named array to write. Data is a []float32, []float64, []uint8 or
// []int64 whose length is the product of Shape.
type Tensor struct {
	Name  string
	Shape []int
	Data  any
}

func (t Tensor) dtype() (DType, int, error) {
	switch d := t.Data.(type) {
	case []float32:
		return F32, len(d), nil
	case []float64:
		return F64, len(d), nil
	case []uint8:
		return U8, len(d), nil
	case []int64:
		return I64, len(d), nil
	}
	return "", 0, fmt.Errorf("tensor %q: cannot store %T", t.Name, t.Data)
}

type entry struct {
	DType       DType    `json:"dtype"`
	Shape       []int    `json:"shape"`
	DataOffsets [2]int64 `json:"data_offsets"`
}

// Write writes the tensors in the given order. Names must be unique and not
// "__metadata__".
func Write(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	var head bytes.Buffer
	head.WriteByte('{')
	sep := ""
	if len(metadata) > 0 {
		m, err := json.Marshal(metadata) // sorts the keys
		if err != nil {
			return err
		}
		head.WriteString(`"__metadata__":`)
		head.Write(m)
		sep = ","
	}
	seen := map[string]bool{"__metadata__": true}
	var offset int64
	for _, t := range tensors {
		dt, n, err := t.dtype()
		if err != nil {
			return err
		}
		if seen[t.Name] {
			return fmt.Errorf("tensor %q: name used twice or reserved", t.Name)
		}
		seen[t.Name] = true
		if want, err := elements(t.Shape); err != nil || want != int64(n) {
			return fmt.Errorf("tensor %q: %d elements do not fill shape %v", t.Name, n, t.Shape)
		}
		e := entry{dt, t.Shape, [2]int64{offset, offset + int64(n*dt.Size())}}
		if e.Shape == nil {
			e.Shape = []int{}
		}
		offset = e.DataOffsets[1]
		name, err := json.Marshal(t.Name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(e)
		if err != nil {
			return err
		}
		head.WriteString(sep)
		head.Write(name)
		head.WriteByte(':')
		head.Write(body)
		sep = ","
	}
	head.WriteByte('}')
	for head.Len()%8 != 0 {
		head.WriteByte(' ')
	}
	bw := bufio.NewWriterSize(w, 1<<20)
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(head.Len()))
	bw.Write(n[:])
	bw.Write(head.Bytes())
	for _, t := range tensors {
		switch d := t.Data.(type) {
		case []uint8:
			bw.Write(d)
		case []float32:
			for _, v := range d {
				binary.LittleEndian.PutUint32(n[:4], math.Float32bits(v))
				bw.Write(n[:4])
			}
		case []float64:
			for _, v := range d {
				binary.LittleEndian.PutUint64(n[:], math.Float64bits(v))
				bw.Write(n[:])
			}
		case []int64:
			for _, v := range d {
				binary.LittleEndian.PutUint64(n[:], uint64(v))
				bw.Write(n[:])
			}
		}
	}
	return bw.Flush() // a bufio.Writer keeps its first error
}

// Encode is Write into memory.
func Encode(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	if err := Write(&b, tensors, metadata); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	Shape []int
	begin int64 // in the file
}

// Len is the number of elements.
func (i Info) Len() int {
	n, _ := elements(i.Shape) // checked on reading
	return int(n)
}

// File gives random access to a container's tensors. Its methods may be called
// concurrently.
type File struct {
	Metadata map[string]string

	r      io.ReaderAt
	closer io.Closer
	infos  []Info
	byName map[string]int
}

// Open opens the file at path; the caller closes it.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	sf, err := New(f, st.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sf.closer = f
	return sf, nil
}

// Decode reads a container held in memory.
func Decode(data []byte) (*File, error) {
	return New(bytes.NewReader(data), int64(len(data)))
}

// New reads the header of the container of the given size.
func New(r io.ReaderAt, size int64) (*File, error) {
	var n [8]byte
	if size < 8 {
		return nil, fmt.Errorf("safetensors: %d bytes are too few for a header", size)
	}
	if _, err := r.ReadAt(n[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors: reading header length: %w", err)
	}
	hl := binary.LittleEndian.Uint64(n[:])
	if hl > maxHeader || int64(hl) > size-8 {
		return nil, fmt.Errorf("safetensors: header of %d bytes does not fit a file of %d", hl, size)
	}
	head := make([]byte, hl)
	if _, err := r.ReadAt(head, 8); err != nil {
		return nil, fmt.Errorf("safetensors: reading header: %w", err)
	}
	f := &File{r: r, byName: map[string]int{}}
	if err := f.parse(head, size-8-int64(hl), 8+int64(hl)); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	return f, nil
}

func (f *File) parse(head []byte, dataSize, base int64) error {
	dec := json.NewDecoder(bytes.NewReader(head))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New("header is not a JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("header: %w", err)
		}
		name := t.(string) // the decoder allows only strings as keys
		if name == "__metadata__" {
			if err := dec.Decode(&f.Metadata); err != nil {
				return fmt.Errorf("header metadata: %w", err)
			}
			continue
		}
		var e entry
		if err := dec.Decode(&e); err != nil {
			return fmt.Errorf("header entry %q: %w", name, err)
		}
		if _, dup := f.byName[name]; dup {
			return fmt.Errorf("tensor %q appears twice", name)
		}
		n, err := elements(e.Shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		sz := int64(e.DType.Size())
		if sz == 0 {
			return fmt.Errorf("tensor %q: dtype %q is not supported (F32, F64, U8, I64 are)", name, e.DType)
		}
		b, end := e.DataOffsets[0], e.DataOffsets[1]
		if b < 0 || end < b || end > dataSize {
			return fmt.Errorf("tensor %q: bytes %d to %d lie outside the %d bytes of data (truncated file?)", name, b, end, dataSize)
		}
		if n > (end-b)/sz || n*sz != end-b {
			return fmt.Errorf("tensor %q: shape %v of %s does not fill bytes %d to %d", name, e.Shape, e.DType, b, end)
		}
		f.byName[name] = len(f.infos)
		f.infos = append(f.infos, Info{name, e.DType, e.Shape, base + b})
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	sort.SliceStable(f.infos, func(i, j int) bool { return f.infos[i].begin < f.infos[j].begin })
	at := base
	for i, t := range f.infos {
		if t.begin != at {
			return fmt.Errorf("tensor %q does not start where the one before it ends", t.Name)
		}
		at += int64(t.Len() * t.DType.Size())
		f.byName[t.Name] = i
	}
	if at != base+dataSize {
		return fmt.Errorf("%d bytes of data belong to no tensor", base+dataSize-at)
	}
	return nil
}

// Close closes the underlying file if Open opened it.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Tensors lists the tensors in the order of their data.
func (f *File) Tensors() []Info { return f.infos }

// Info returns the named tensor's description.
func (f *File) Info(name string) (Info, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Info{}, false
	}
	return f.infos[i], true
}

// read returns n elements of the named tensor starting at element offset.
func (f *File) read(name string, want DType, offset, n int) ([]byte, error) {
	b := make([]byte, max(0, n)*want.Size())
	return b, f.ReadRaw(name, want, offset, b)
}

// ReadRaw fills dst with the little-endian bytes of the named tensor's elements
// from offset on, whose type must be the one given. It allocates nothing.
func (f *File) ReadRaw(name string, want DType, offset int, dst []byte) error {
	t, ok := f.Info(name)
	if !ok {
		return fmt.Errorf("no tensor %q", name)
	}
	if t.DType != want {
		return fmt.Errorf("tensor %q is %s, not %s", name, t.DType, want)
	}
	sz := want.Size()
	n := len(dst) / sz
	if offset < 0 || offset > t.Len()-n || n*sz != len(dst) {
		return fmt.Errorf("tensor %q: elements %d to %d of %d", name, offset, offset+n, t.Len())
	}
	if _, err := f.r.ReadAt(dst, t.begin+int64(offset*sz)); err != nil && !(err == io.EOF && n == 0) {
		return fmt.Errorf("tensor %q: %w", name, err)
	}
	return nil
}

// ReadFloat32 fills dst from element offset of the named F32 tensor.
func (f *File) ReadFloat32(name string, offset int, dst []float32) error {
	b, err := f.read(name, F32, offset, len(dst))
	if err != nil {
		return err
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return nil
}

// ReadFloat64 fills dst from element offset of the named F64 tensor.
func (f *File) ReadFloat64(name string, offset int, dst []float64) error {
	b, err := f.read(name, F64, offset, len(dst))
	if err != nil {
		return err
	}
	for i := range dst {
		dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return nil
}

// ReadUint8 fills dst from element offset of the named U8 tensor.
func (f *File) ReadUint8(name string, offset int, dst []uint8) error {
	b, err := f.read(name, U8, offset, len(dst))
	if err == nil {
		copy(dst, b)
	}
	return err
}

// Float32 returns the whole of an F32 tensor.
func (f *File) Float32(name string) ([]float32, error) {
	t, ok := f.Info(name)
	if !ok || t.DType != F32 {
		_, err := f.read(name, F32, 0, 0)
		return nil, err
	}
	d := make([]float32, t.Len())
	return d, f.ReadFloat32(name, 0, d)
}

// Float64 returns the whole of an F64 tensor.
func (f *File) Float64(name string) ([]float64, error) {
	t, ok := f.Info(name)
	if !ok || t.DType != F64 {
		_, err := f.read(name, F64, 0, 0)
		return nil, err
	}
	d := make([]float64, t.Len())
	return d, f.ReadFloat64(name, 0, d)
}

// Int64 returns the whole of an I64 tensor.
func (f *File) Int64(name string) ([]int64, error) {
	t, _ := f.Info(name)
	b, err := f.read(name, I64, 0, t.Len())
	if err != nil {
		return nil, err
	}
	d := make([]int64, t.Len())
	for i := range d {
		d[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return d, nil
}

// elements is the product of a shape's dimensions, refusing negative ones and
// products that could not be addressed.
func elements(shape []int) (int64, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension in shape %v", shape)
		}
		if d != 0 && n > math.MaxInt64/16/int64(d) {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		n *= int64(d)
	}
	return n, nil
}
