package imagefile

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

func TestWriteNPY(t *testing.T) {
	for _, c := range []struct {
		shape []int
		tuple string
	}{{nil, "()"}, {[]int{3}, "(3,)"}, {[]int{1, 2, 3}, "(1, 2, 3)"}, {[]int{0, 5}, "(0, 5)"}} {
		n := 1
		for _, d := range c.shape {
			n *= d
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(i) + 0.5
		}
		var b bytes.Buffer
		if err := WriteNPY(&b, c.shape, data); err != nil {
			t.Fatal(err)
		}
		raw := b.Bytes()
		size := int(binary.LittleEndian.Uint16(raw[8:]))
		head := string(raw[10 : 10+size])
		if !strings.HasPrefix(string(raw), "\x93NUMPY\x01\x00") || (10+size)%64 != 0 || !strings.HasSuffix(head, "\n") {
			t.Errorf("%v: header %q of %d bytes", c.shape, head, size)
		}
		if want := "{'descr': '<f4', 'fortran_order': False, 'shape': " + c.tuple + ", }"; strings.TrimSpace(head) != want {
			t.Errorf("header %q, want %q", strings.TrimSpace(head), want)
		}
		for i, v := range data {
			if math.Float32frombits(binary.LittleEndian.Uint32(raw[10+size+4*i:])) != v {
				t.Errorf("%v: element %d", c.shape, i)
			}
		}
	}
	if WriteNPY(&bytes.Buffer{}, []int{2}, make([]float32, 3)) == nil {
		t.Error("accepted three values for a shape of two")
	}
}
