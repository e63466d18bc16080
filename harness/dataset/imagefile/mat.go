package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A MAT file of version 5 (MATLAB's versions 5 to 7, SciPy's savemat) is a header
// of 128 bytes and a list of elements, each of a type, a length and data; those of
// the type matrix, which may be packed one by one with zlib, hold flags, sizes, a
// name and numbers, columns first. Files of version 7.3 are HDF5.
//
// Format: MathWorks, MAT-File Format, version 5.

const (
	matMagic  = "MATLAB 5.0"
	matHeader = 128

	matMatrix, matPacked = 14, 15 // types of elements
)

// matElements are the types of numbers; those of a matrix are often kept in a
// smaller one than its class says.
var matElements = map[uint32]element{
	1: {kind: 'i', size: 1}, 2: {kind: 'u', size: 1}, 3: {kind: 'i', size: 2}, 4: {kind: 'u', size: 2},
	5: {kind: 'i', size: 4}, 6: {kind: 'u', size: 4}, 7: {kind: 'f', size: 4}, 9: {kind: 'f', size: 8},
	12: {kind: 'i', size: 8}, 13: {kind: 'u', size: 8},
}

// matOther are the classes of arrays that hold no numbers.
var matOther = map[uint32]string{1: "cells", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix"}

// matArray is a matrix that can be read, or why it cannot.
type matArray struct {
	name string
	dims []int64
	err  error

	packed  bool
	at, n   int64 // in the file
	element element
	data    int64 // where its numbers start in the matrix
}

// matHead bounds what stands before a matrix's numbers.
const matHead = 4096

// maxMAT bounds the arrays of a file.
const maxMAT = 4096

func decodeMAT(r io.ReaderAt, size int64, array string) (*Stack, error) {
	head := make([]byte, matHeader)
	if k, err := r.ReadAt(head, 0); k < len(head) {
		return nil, noEOF(err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if string(head[126:]) == "MI" {
		order = binary.BigEndian
	}
	var all []matArray
	for at := int64(matHeader); at < size; {
		var tag [8]byte
		if k, err := r.ReadAt(tag[:], at); k < len(tag) {
			return nil, noEOF(err)
		}
		kind, n := order.Uint32(tag[:]), int64(order.Uint32(tag[4:]))
		at += 8
		if n > size-at {
			return nil, fmt.Errorf("an element of %d bytes at %d: the file is truncated or damaged", n, at)
		}
		if len(all) == maxMAT {
			return nil, fmt.Errorf("more than %d arrays", maxMAT)
		}
		switch kind {
		case matMatrix, matPacked:
			a, err := matRead(r, at, n, kind == matPacked, order)
			if err != nil {
				return nil, fmt.Errorf("array %d: %w", len(all), err)
			}
			all = append(all, a)
		}
		if at += n; kind != matPacked {
			at = (at + 7) / 8 * 8
		}
	}
	var names, others []string
	found := -1
	for i, a := range all {
		if a.err != nil && len(a.dims) == 0 {
			others = append(others, a.name+" ("+a.err.Error()+")")
			continue
		}
		names = append(names, a.name)
		if array == "" || array == a.name {
			found = i
		}
	}
	if len(names) == 0 && len(others) > 0 {
		return nil, fmt.Errorf("the file holds no array of images, only %s", strings.Join(others[:min(len(others), 20)], ", "))
	}
	if err := chooseOne(slices.Clone(names), array, found >= 0); err != nil {
		return nil, err
	}
	a := all[found]
	s, err := a.stack(r, size)
	if err != nil {
		return nil, fmt.Errorf("array %q: %w", a.name, err)
	}
	if len(all) > 1 {
		s.info.Array = a.name
	}
	return s, nil
}

// matCursor takes the elements of a matrix.
type matCursor struct {
	b     []byte
	at    int64
	order binary.ByteOrder
}

// next is the type, the length and the place of an element's data. Data of up to
// four bytes stand in the tag.
func (c *matCursor) next() (kind uint32, n, at int64, err error) {
	if c.at+8 > int64(len(c.b)) {
		return 0, 0, 0, io.ErrUnexpectedEOF
	}
	first := c.order.Uint32(c.b[c.at:])
	if first>>16 != 0 {
		at = c.at + 4
		c.at += 8
		if n = int64(first >> 16); n > 4 {
			return 0, 0, 0, fmt.Errorf("%d bytes in the place of four", n)
		}
		return first & 0xffff, n, at, nil
	}
	n, at = int64(c.order.Uint32(c.b[c.at+4:])), c.at+8
	c.at = at + (n+7)/8*8
	return first, n, at, nil
}

// small is the data of an element that must stand before the numbers.
func (c *matCursor) small() ([]byte, error) {
	_, n, at, err := c.next()
	if err == nil && n > int64(len(c.b))-at {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return c.b[at:][:n], nil
}

// matRead reads what stands before the numbers of a matrix.
func matRead(r io.ReaderAt, at, n int64, packed bool, order binary.ByteOrder) (matArray, error) {
	a := matArray{packed: packed, at: at, n: n}
	var b []byte
	if packed {
		z, err := zlib.NewReader(io.NewSectionReader(r, at, n))
		if err != nil {
			return a, err
		}
		defer z.Close()
		if b, err = io.ReadAll(io.LimitReader(z, matHead)); err != nil {
			return a, err
		}
		if len(b) < 8 || order.Uint32(b) != matMatrix {
			return a, errors.New("no matrix is packed in it")
		}
		b = b[8:]
	} else {
		b = make([]byte, min(n, matHead))
		if k, err := r.ReadAt(b, at); k < len(b) {
			return a, noEOF(err)
		}
	}
	c := &matCursor{b: b, order: order}
	flags, err := c.small()
	if err != nil || len(flags) < 8 {
		return a, fmt.Errorf("a matrix without flags: %w", noEOF(err))
	}
	v := order.Uint32(flags)
	sizes, err := c.small()
	if err != nil {
		return a, err
	}
	name, err := c.small()
	if err != nil {
		return a, err
	}
	a.name = string(name)
	const isComplex = 1 << 11
	class := v & 0xff
	switch {
	case class < 6 || class > 15:
		what := matOther[class]
		if what == "" {
			what = fmt.Sprintf("an array of class %d", class)
		}
		a.err = errors.New(what)
		return a, nil
	case len(sizes) < 8 || len(sizes) > 4*32:
		return a, fmt.Errorf("%d bytes of dimensions", len(sizes))
	case len(sizes) == 8 && (order.Uint32(sizes) <= 1 || order.Uint32(sizes[4:]) <= 1):
		a.err = errors.New("a number or a vector")
		return a, nil
	}
	for ; len(sizes) >= 4; sizes = sizes[4:] {
		a.dims = append(a.dims, int64(int32(order.Uint32(sizes))))
	}
	if v&isComplex != 0 {
		a.err = errors.New("complex numbers are not read: save abs(…), real(…) or imag(…) of it")
		return a, nil
	}
	kind, bytes, data, err := c.next()
	if err != nil {
		return a, err
	}
	var ok bool
	if a.element, ok = matElements[kind]; !ok {
		a.err = fmt.Errorf("numbers of MATLAB's type %d", kind)
		return a, nil
	}
	a.element.order = order
	a.data = data
	left := int64(a.element.size)
	for _, d := range a.dims {
		if d < 0 || left > bytes/max(d, 1) {
			a.err = fmt.Errorf("an array of shape %v in %d bytes", a.dims, bytes)
			return a, nil
		}
		left *= d
	}
	if left != bytes || !packed && data > n-bytes {
		a.err = fmt.Errorf("an array of shape %v in %d bytes: the file is truncated or damaged", a.dims, bytes)
	}
	return a, nil
}

// stack reads the numbers. The third dimension of a MATLAB array counts images,
// unless it is that of colours.
func (a matArray) stack(r io.ReaderAt, size int64) (*Stack, error) {
	if a.err != nil {
		return nil, a.err
	}
	ax, err := matlabAxes(a.dims)
	if err != nil {
		return nil, err
	}
	if !a.packed {
		return rawStack("MAT", io.NewSectionReader(r, a.at, a.n), a.n, a.data, a.element, a.dims, ax, true)
	}
	whole := int64(a.element.size)
	for _, d := range a.dims {
		whole *= d
	}
	whole += 8 + a.data
	if whole > a.n*maxDeflate+64 {
		return nil, fmt.Errorf("%d bytes cannot unpack to %d", a.n, whole)
	}
	z, err := zlib.NewReader(io.NewSectionReader(r, a.at, a.n))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var b bytes.Buffer // grows with what comes out, not with what the file claims
	if k, err := b.ReadFrom(io.LimitReader(z, whole)); err != nil {
		return nil, err
	} else if k < whole {
		return nil, io.ErrUnexpectedEOF
	}
	return rawStack("MAT", bytes.NewReader(b.Bytes()), whole, 8+a.data, a.element, a.dims, ax, true)
}

// matlabAxes reads the dimensions of an array as MATLAB counts them, rows first:
// H×W, H×W×N or H×W×1×N.
func matlabAxes(dims []int64) (axes, error) {
	switch n := len(dims); {
	case n == 2, n == 3 && dims[2] == 1:
		return axes{-1, 0, 1}, nil
	case n == 3 && dims[2] <= 4:
		return axes{}, fmt.Errorf("the third dimension of an array of %v counts channels or images: keep one, or save the images as H×W×1×N", dims)
	case n == 3:
		return axes{2, 0, 1}, nil
	case n == 4 && dims[2] == 1:
		return axes{3, 0, 1}, nil
	}
	return axes{}, fmt.Errorf("an array of %v is no stack of grey images: want H×W, H×W×N or H×W×1×N", dims)
}
