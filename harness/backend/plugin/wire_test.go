package plugin

import (
	"math"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
)

func TestTensorWire(t *testing.T) {
	for _, want := range []backend.Tensor{
		{Shape: []int{2, 3}, F32: []float32{1, -2, float32(math.Inf(1)), math.SmallestNonzeroFloat32, 0, float32(math.Copysign(0, -1))}},
		{Shape: []int{1}, F64: []float64{math.Pi}},
		{Shape: []int{3, 0}, F32: []float32{}},
		{F32: []float32{7}}, // a scalar
	} {
		w, err := tensorToWire(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tensorFromWire(w)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v became %v, %v", want, got, err)
		}
	}
	// The wire is little-endian whatever the machine is.
	for _, c := range []struct {
		t    backend.Tensor
		want string
	}{{backend.Tensor{F32: []float32{1.5}}, "\x00\x00\xc0\x3f"}, {backend.Tensor{F64: []float64{1.5}}, "\x00\x00\x00\x00\x00\x00\xf8\x3f"}} {
		if w, err := tensorToWire(c.t); err != nil || string(w.Data) != c.want {
			t.Errorf("%v is % x on the wire, want % x (%v)", c.t, w.GetData(), c.want, err)
		}
	}
	for _, bad := range []*pb.Tensor{
		nil,
		{Dtype: 9, Shape: []uint64{1}, Data: make([]byte, 4)},
		{Dtype: pb.DType_DTYPE_FLOAT32, Shape: []uint64{2}, Data: make([]byte, 4)},
		{Dtype: pb.DType_DTYPE_FLOAT64, Shape: []uint64{1}, Data: make([]byte, 7)},
		{Dtype: pb.DType_DTYPE_FLOAT32, Shape: []uint64{1 << 33, 1 << 33}},
		{Dtype: pb.DType_DTYPE_FLOAT32, Shape: []uint64{math.MaxUint64}},
	} {
		if _, err := tensorFromWire(bad); err == nil {
			t.Errorf("accepted %v", bad)
		}
	}
}

func TestSamplesWire(t *testing.T) {
	want := []backend.Batch{{{Dataset: "a", Index: 1}, {Dataset: "b", Index: 200, Dihedral: 7}}, {{Dataset: "b", Index: 3, Dihedral: 1}}, {}}
	w, err := samplesToWire(want...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := samplesFromWire(w, 2, 1, 0)
	if err != nil || !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v became %v, %v", want, got, err)
	}

	// An epoch of the study is small on the wire.
	var epoch []backend.Batch
	for i := range 256 {
		var b backend.Batch
		for j := range 16 {
			b = append(b, backend.Sample{Dataset: "3f2a", Index: (i*16 + j*7) % 512, Dihedral: uint8(j % 8)})
		}
		epoch = append(epoch, b)
	}
	w, err = samplesToWire(epoch...)
	if err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(w); n > 16<<10 {
		t.Errorf("an epoch takes %d bytes", n)
	}

	for _, bad := range []struct {
		w     *pb.Samples
		sizes []uint32
	}{
		{&pb.Samples{Index: []uint32{1}}, []uint32{1}}, // of no dataset
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1}}, []uint32{2}},
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1}}, nil},
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1, 2}, Dataset: []uint32{0}}, []uint32{2}},
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1}, Dataset: []uint32{1}}, []uint32{1}},
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1}, Dihedral: []byte{8}}, []uint32{1}},
		{&pb.Samples{Datasets: []string{"a"}, Index: []uint32{1}, Dihedral: []byte{1, 1}}, []uint32{1}},
		{nil, []uint32{math.MaxUint32}},
	} {
		if _, err := samplesFromWire(bad.w, bad.sizes...); err == nil {
			t.Errorf("accepted %v in batches of %v", bad.w, bad.sizes)
		}
	}
}

func FuzzTrainRequest(f *testing.F) {
	w, err := samplesToWire(backend.Batch{{Dataset: "a", Index: 1}, {Dataset: "b", Index: 200, Dihedral: 7}}, backend.Batch{{Dataset: "b", Index: 3, Dihedral: 1}})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(&pb.TrainRequest{Samples: w, BatchSizes: []uint32{2, 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var r pb.TrainRequest
		if proto.Unmarshal(data, &r) != nil {
			return
		}
		batches, err := samplesFromWire(r.GetSamples(), r.GetBatchSizes()...)
		if err != nil {
			return
		}
		n := 0
		for i, b := range batches {
			if len(b) != int(r.BatchSizes[i]) {
				t.Fatalf("batch %d has %d samples, must have %d", i, len(b), r.BatchSizes[i])
			}
			n += len(b)
		}
		if n != len(r.Samples.GetIndex()) {
			t.Fatalf("%d of %d samples", n, len(r.Samples.GetIndex()))
		}
	})
}

func FuzzTensor(f *testing.F) {
	w, err := tensorToWire(backend.Tensor{Shape: []int{2, 1}, F32: []float32{1, 2}})
	if err != nil {
		f.Fatal(err)
	}
	seed, err := proto.Marshal(w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var w pb.Tensor
		if proto.Unmarshal(data, &w) != nil {
			return
		}
		if got, err := tensorFromWire(&w); err == nil && got.Check() != nil {
			t.Fatal(got.Check())
		}
	})
}

// Nothing that a plugin says about itself controls a terminal.
func TestDescriptionIsVisible(t *testing.T) {
	const evil, want = "a\x1b[2Jb", `a\x1b[2Jb`
	d := descriptionFromWire(&pb.DescribeResponse{
		Name: evil, Version: evil, Numerics: evil, Determinism: evil, Precisions: []string{evil}, Losses: []string{evil}, Notes: []string{evil},
		Devices:   []*pb.Device{{Name: evil, Kind: evil, Info: evil, Id: evil, Driver: evil}},
		Operators: []*pb.Operator{{Type: evil, Device: evil, Note: evil}},
	})
	for i, s := range []string{
		d.Name, d.Version, d.Numerics, d.Determinism, d.Precisions[0], d.Losses[0], d.Notes[0],
		d.Devices[0].Name, d.Devices[0].Kind, d.Devices[0].Info, d.Devices[0].ID, d.Devices[0].Driver,
		d.Operators[0].Type, d.Operators[0].Device, d.Operators[0].Note,
	} {
		if s != want {
			t.Errorf("text %d is %q", i, s)
		}
	}
}
