package safetensors

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

func sample() ([]Tensor, map[string]string) {
	return []Tensor{
		{"weight", []int{2, 3}, []float32{1, -2, 3.5, 0, 0.1, 6}},
		{"moment", []int{2}, []float64{1.25, -3}},
		{"label", []int{3, 1}, []uint8{0, 1, 255}},
		{"shape", []int{2}, []int64{-1, 1 << 40}},
		{"empty", []int{0, 4}, []float32{}},
		{"scalar", nil, []float32{7}},
	}, map[string]string{"step": "12", "a": "b"}
}

func TestRoundTrip(t *testing.T) {
	ts, meta := sample()
	b, err := Encode(ts, meta)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata, meta) {
		t.Errorf("metadata %v, want %v", f.Metadata, meta)
	}
	w, err := f.Float32("weight")
	if err != nil || !reflect.DeepEqual(w, ts[0].Data) {
		t.Errorf("weight = %v, %v", w, err)
	}
	m, err := f.Float64("moment")
	if err != nil || !reflect.DeepEqual(m, ts[1].Data) {
		t.Errorf("moment = %v, %v", m, err)
	}
	l := make([]uint8, 2)
	if err := f.ReadUint8("label", 1, l); err != nil || l[0] != 1 || l[1] != 255 {
		t.Errorf("label[1:] = %v, %v", l, err)
	}
	i, err := f.Int64("shape")
	if err != nil || !reflect.DeepEqual(i, ts[3].Data) {
		t.Errorf("shape = %v, %v", i, err)
	}
	if _, err := f.Float32("moment"); err == nil {
		t.Error("read F64 as F32")
	}
	if _, err := f.Float32("absent"); err == nil {
		t.Error("read an absent tensor")
	}
	if err := f.ReadFloat32("weight", 5, make([]float32, 2)); err == nil {
		t.Error("read past the end of a tensor")
	}
	again, _ := Encode(ts, meta)
	if !bytes.Equal(b, again) {
		t.Error("two encodings differ")
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, ts := range map[string][]Tensor{
		"twice":      {{"a", []int{1}, []float32{1}}, {"a", []int{1}, []float32{1}}},
		"wrong size": {{"a", []int{2}, []float32{1}}},
		"wrong type": {{"a", []int{1}, []int{1}}},
		"reserved":   {{"__metadata__", []int{1}, []float32{1}}},
	} {
		if _, err := Encode(ts, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func container(head string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(b, head...), make([]byte, data)...)
}

func TestHostileHeaders(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "too few"},
		{"huge header", binary.LittleEndian.AppendUint64(nil, 1<<60), "does not fit"},
		{"not json", container("hello", 0), "not a JSON object"},
		{"beyond data", container(`{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, 8), "outside"},
		{"negative offset", container(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 8), "outside"},
		{"giant shape", container(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}`, 8), "too large"},
		{"negative shape", container(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}`, 8), "negative"},
		{"shape too small", container(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, 8), "does not fill"},
		{"dtype", container(`{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}`, 8), "not supported"},
		{"overlap", container(`{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}`, 8), "does not start"},
		{"twice", container(`{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}`, 8), "twice"},
		{"orphan bytes", container(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 8), "belong to no tensor"},
	} {
		_, err := Decode(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one saying %q", c.name, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	ts, meta := sample()
	b, _ := Encode(ts, meta)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(container(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decode(data)
		if err != nil {
			return
		}
		for _, i := range file.Tensors() {
			if i.Len()*i.DType.Size() > len(data) {
				t.Fatalf("%q claims %d elements in %d bytes", i.Name, i.Len(), len(data))
			}
			if i.DType == F32 {
				if _, err := file.Float32(i.Name); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// NumPy reads what Write wrote by the format's definition alone, so that the
// byte layout is checked by something that shares no code with it.
func TestNumPyReadsIt(t *testing.T) {
	python := peers.Python(t, "numpy")
	ts, meta := sample()
	b, err := Encode(ts, meta)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", `
import json,struct,sys,numpy as np
b=open(sys.argv[1],'rb').read(); n,=struct.unpack('<Q',b[:8]); h=json.loads(b[8:8+n])
def get(k):
    e=h[k]; i,j=e['data_offsets']; return np.frombuffer(b[8+n+i:8+n+j],{'F32':'<f4','F64':'<f8','U8':'u1','I64':'<i8'}[e['dtype']]).reshape(e['shape'])
print(get('weight').tolist(), get('moment').tolist(), get('label').tolist(), get('shape').tolist(), h['__metadata__']['step'])
`, path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = "[[1.0, -2.0, 3.5], [0.0, 0.10000000149011612, 6.0]] [1.25, -3.0] [[0], [1], [255]] [-1, 1099511627776] 12\n"
	if string(out) != want {
		t.Errorf("NumPy read\n%swant\n%s", out, want)
	}
}
