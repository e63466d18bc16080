package imagefile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// WriteNPY writes a float32 array in row-major order in NumPy's format 1.0.
//
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
func WriteNPY(w io.Writer, shape []int, data []float32) error {
	n, dims := 1, ""
	for _, d := range shape {
		n *= d
		dims += fmt.Sprintf("%d, ", d)
	}
	if n != len(data) {
		return fmt.Errorf("NPY: %d values do not fill shape %v", len(data), shape)
	}
	if len(shape) != 1 { // a tuple of one keeps its comma
		dims = strings.TrimSuffix(dims, ", ")
	} else {
		dims = strings.TrimSuffix(dims, " ")
	}
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", dims)
	// magic, version and length take 10 bytes; data begin at a multiple of 64
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	b := bufio.NewWriterSize(w, 1<<16)
	b.WriteString("\x93NUMPY\x01\x00")
	b.Write(binary.LittleEndian.AppendUint16(nil, uint16(len(head))))
	b.WriteString(head)
	var v [4]byte
	for _, x := range data {
		binary.LittleEndian.PutUint32(v[:], math.Float32bits(x))
		b.Write(v[:])
	}
	return b.Flush() // a bufio.Writer keeps its first error
}
