package imagefile

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/refocus-em/refocus/harness/half"
)

// element is the type of one number in a file.
type element struct {
	kind  byte // 'i', 'u' or 'f'
	size  int  // bytes: 1, 2, 4, 8; floats 2, 4, 8
	order binary.ByteOrder
}

func (e element) check() error {
	switch {
	case (e.kind == 'i' || e.kind == 'u') && (e.size == 1 || e.size == 2 || e.size == 4 || e.size == 8):
		return nil
	case e.kind == 'f' && (e.size == 2 || e.size == 4 || e.size == 8):
		return nil
	}
	return fmt.Errorf("numbers of kind %q and %d bytes are not read", e.kind, e.size)
}

// value is the number at the start of b.
func (e element) value(b []byte) float32 {
	switch e.size {
	case 1:
		if e.kind == 'i' {
			return float32(int8(b[0]))
		}
		return float32(b[0])
	case 2:
		v := e.order.Uint16(b)
		switch e.kind {
		case 'i':
			return float32(int16(v))
		case 'f':
			return half.Float32(v)
		}
		return float32(v)
	case 4:
		v := e.order.Uint32(b)
		switch e.kind {
		case 'i':
			return float32(int32(v))
		case 'f':
			return math.Float32frombits(v)
		}
		return float32(v)
	default:
		v := e.order.Uint64(b)
		switch e.kind {
		case 'i':
			return float32(int64(v))
		case 'f':
			return float32(math.Float64frombits(v))
		}
		return float32(v)
	}
}

// decode fills dst with the numbers at the start of src.
func (e element) decode(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = e.value(src[i*e.size:])
	}
}

// rawStack is the stack of an uncompressed array at offset in r, which has size
// bytes. fortran says that the first dimension varies fastest.
func rawStack(format string, r io.ReaderAt, size, offset int64, e element, dims []int64, ax axes, fortran bool) (*Stack, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	n, h, w, err := ax.sizes(dims)
	if err != nil {
		return nil, err
	}
	total := n * h * w * int64(e.size)
	if offset < 0 || offset > size || total > size-offset {
		return nil, fmt.Errorf("%d images of %d×%d take %d bytes, the file has %d of them: it is truncated or its header is wrong", n, h, w, total, max(size-offset, 0))
	}
	s := &Stack{Format: format, N: int(n), H: int(h), W: int(w)}
	stride := func(d int) int { // in bytes
		faster := dims[:max(d, 0)]
		if !fortran {
			faster = dims[d+1:]
		}
		bytes := e.size
		for _, n := range faster {
			bytes *= int(n)
		}
		return bytes
	}
	rows, columns := stride(ax.row), stride(ax.column)
	if columns == e.size && rows == int(w)*e.size { // an image is one piece of the file
		s.image = func(i int, dst []float32) error {
			return readRaw(r, offset+int64(i)*h*w*int64(e.size), e, dst)
		}
		return s, nil
	}
	// The pixels of an image lie scattered over the file.
	load := sync.OnceValues(func() ([]byte, error) {
		b := make([]byte, total)
		if k, err := r.ReadAt(b, offset); k < len(b) {
			return nil, err
		}
		return b, nil
	})
	s.image = func(i int, dst []float32) error {
		b, err := load()
		if err != nil {
			return err
		}
		if ax.image >= 0 {
			b = b[i*stride(ax.image):]
		}
		for y := range s.H {
			for x := range s.W {
				dst[y*s.W+x] = e.value(b[y*rows+x*columns:])
			}
		}
		return nil
	}
	return s, nil
}

// readRaw fills dst with consecutive numbers from offset on.
func readRaw(r io.ReaderAt, offset int64, e element, dst []float32) error {
	const block = 1 << 16 // numbers
	buf := make([]byte, min(len(dst), block)*e.size)
	for len(dst) > 0 {
		n := min(len(dst), block)
		b := buf[:n*e.size]
		if k, err := r.ReadAt(b, offset); k < len(b) {
			return err
		}
		e.decode(dst[:n], b)
		dst = dst[n:]
		offset += int64(len(b))
	}
	return nil
}
