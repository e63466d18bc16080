package ptx

import (
	"encoding/binary"
	"math"
	"testing"
)

// pack lays a kernel's parameters out.
func pack(t testing.TB, k *Kernel, values ...any) []byte {
	t.Helper()
	if len(values) != len(k.Params) {
		t.Fatalf("%d parameters for %s, which has %d", len(values), k.Name, len(k.Params))
	}
	b := make([]byte, k.ParamBytes())
	for i, p := range k.Params {
		var v uint64
		switch x := values[i].(type) {
		case uint64:
			v = x
		case int:
			v = uint64(x)
		case float32:
			v = uint64(math.Float32bits(x))
		case float64:
			v = math.Float64bits(x)
		default:
			t.Fatalf("a parameter of type %T", x)
		}
		putBytes(b[p.Offset:p.Offset+p.Bytes], v)
	}
	return b
}

// floats are numbers in memory.
func bytesOf[T any](t testing.TB, v []T) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// put allocates memory for numbers.
func put[T any](t testing.TB, m *Memory, v []T) uint64 {
	t.Helper()
	b := bytesOf(t, v)
	p := m.Alloc(len(b))
	if err := m.Write(p, b); err != nil {
		t.Fatal(err)
	}
	return p
}

// get reads n numbers.
func get[T any](t testing.TB, m *Memory, p uint64, n int) []T {
	t.Helper()
	v := make([]T, n)
	b := make([]byte, binary.Size(v))
	if err := m.Read(b, p); err != nil {
		t.Fatal(err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		t.Fatal(err)
	}
	return v
}
