package plugin

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// ProtocolVersion is the version of the service; host and plugin must share it.
const ProtocolVersion = 1

// maxMessage bounds a gRPC message in either direction. The largest one is the
// state of the study's network in float64 with its moments, 340 MB.
const maxMessage = 1 << 30

// flowWindow is how much of a message may be on its way unread. gRPC's 64 KiB
// would have both sides wait for each other.
const flowWindow = 16 << 20

func tensorToWire(t backend.Tensor) (*pb.Tensor, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	w := &pb.Tensor{Dtype: pb.DType_DTYPE_FLOAT32}
	for _, d := range t.Shape {
		w.Shape = append(w.Shape, uint64(d))
	}
	if t.F64 != nil {
		w.Dtype = pb.DType_DTYPE_FLOAT64
		w.Data = littleEndian(t.F64)
	} else {
		w.Data = littleEndian(t.F32)
	}
	return w, nil
}

// littleEndian copies numbers to bytes.
func littleEndian[T float32 | float64](x []T) []byte {
	data := make([]byte, len(x)*int(unsafe.Sizeof(T(0))))
	copy(data, memory(x))
	swap(data, int(unsafe.Sizeof(T(0))))
	return data
}

// numbers copies bytes to n numbers.
func numbers[T float32 | float64](data []byte, n uint64) []T {
	x := make([]T, n)
	copy(memory(x), data)
	swap(memory(x), int(unsafe.Sizeof(T(0))))
	return x
}

// memory is a slice's memory, in the machine's order of bytes.
func memory[T float32 | float64](x []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(T(0))))
}

// swap turns numbers of size bytes between little-endian and the machine's
// order: on nearly all machines there is nothing to do.
func swap(data []byte, size int) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return
	}
	for i := 0; i+size <= len(data); i += size {
		slices.Reverse(data[i : i+size])
	}
}

func tensorFromWire(w *pb.Tensor) (backend.Tensor, error) {
	var t backend.Tensor
	n := uint64(1)
	for _, d := range w.GetShape() {
		if d > maxMessage || d > 0 && n > maxMessage/d {
			return t, fmt.Errorf("shape %v is too large", w.GetShape())
		}
		n *= d
		t.Shape = append(t.Shape, int(d))
	}
	var size uint64
	switch w.GetDtype() {
	case pb.DType_DTYPE_FLOAT32:
		size = 4
	case pb.DType_DTYPE_FLOAT64:
		size = 8
	default:
		return t, fmt.Errorf("unknown element type %v", w.GetDtype())
	}
	data := w.GetData()
	if uint64(len(data)) != n*size {
		return t, fmt.Errorf("%d bytes do not fill shape %v of %d-byte numbers", len(data), t.Shape, size)
	}
	if size == 8 {
		t.F64 = numbers[float64](data, n)
	} else {
		t.F32 = numbers[float32](data, n)
	}
	return t, nil
}

func namedToWire(ts []backend.NamedTensor) ([]*pb.NamedTensor, error) {
	ws := make([]*pb.NamedTensor, len(ts))
	for i, t := range ts {
		w, err := tensorToWire(t.Tensor)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		ws[i] = &pb.NamedTensor{Name: t.Name, Tensor: w}
	}
	return ws, nil
}

func namedFromWire(ws []*pb.NamedTensor) ([]backend.NamedTensor, error) {
	ts := make([]backend.NamedTensor, len(ws))
	for i, w := range ws {
		t, err := tensorFromWire(w.GetTensor())
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", w.GetName(), err)
		}
		ts[i] = backend.NamedTensor{Name: w.GetName(), Tensor: t}
	}
	return ts, nil
}

// samplesToWire packs batches into columns; see the message Samples.
func samplesToWire(batches ...backend.Batch) (*pb.Samples, error) {
	w := &pb.Samples{}
	ids := map[string]uint32{}
	anyID, anyDihedral := false, false
	for _, b := range batches {
		for _, s := range b {
			if s.Index < 0 || s.Index > math.MaxUint32 {
				return nil, fmt.Errorf("index %d of dataset %q is out of range", s.Index, s.Dataset)
			}
			id, ok := ids[s.Dataset]
			if !ok {
				id = uint32(len(w.Datasets))
				ids[s.Dataset] = id
				w.Datasets = append(w.Datasets, s.Dataset)
			}
			w.Dataset = append(w.Dataset, id)
			w.Index = append(w.Index, uint32(s.Index))
			w.Dihedral = append(w.Dihedral, s.Dihedral)
			anyID = anyID || id > 0
			anyDihedral = anyDihedral || s.Dihedral > 0
		}
	}
	if !anyID {
		w.Dataset = nil
	}
	if !anyDihedral {
		w.Dihedral = nil
	}
	return w, nil
}

// samplesFromWire unpacks columns into batches of the given sizes.
func samplesFromWire(w *pb.Samples, sizes ...uint32) ([]backend.Batch, error) {
	n := len(w.GetIndex())
	if d := len(w.GetDataset()); d != 0 && d != n {
		return nil, fmt.Errorf("samples: %d datasets for %d indices", d, n)
	}
	if d := len(w.GetDihedral()); d != 0 && d != n {
		return nil, fmt.Errorf("samples: %d symmetries for %d indices", d, n)
	}
	all := make(backend.Batch, n)
	for i, index := range w.GetIndex() {
		id, op := uint32(0), byte(0)
		if len(w.Dataset) > 0 {
			id = w.Dataset[i]
		}
		if len(w.Dihedral) > 0 {
			op = w.Dihedral[i]
		}
		if int(id) >= len(w.Datasets) {
			return nil, fmt.Errorf("samples: sample %d is of dataset number %d of %d", i, id, len(w.Datasets))
		}
		if op > 7 {
			return nil, fmt.Errorf("samples: sample %d has symmetry %d, must be from 0 to 7", i, op)
		}
		all[i] = backend.Sample{Dataset: w.Datasets[id], Index: int(index), Dihedral: op}
	}
	var batches []backend.Batch
	for _, size := range sizes {
		if uint64(size) > uint64(len(all)) {
			return nil, fmt.Errorf("samples: batch sizes exceed the %d samples", n)
		}
		batches = append(batches, all[:size:size])
		all = all[size:]
	}
	if len(all) > 0 {
		return nil, fmt.Errorf("samples: %d samples belong to no batch", len(all))
	}
	return batches, nil
}

// batchFromWire unpacks the samples of one batch.
func batchFromWire(w *pb.Samples) (backend.Batch, error) {
	batches, err := samplesFromWire(w, uint32(len(w.GetIndex())))
	if err != nil {
		return nil, err
	}
	return batches[0], nil
}

func descriptionToWire(d backend.Description) *pb.DescribeResponse {
	w := &pb.DescribeResponse{
		Name: d.Name, Version: d.Version, Numerics: d.Numerics, Determinism: d.Determinism,
		Precisions: d.Precisions, Losses: d.Losses, Notes: d.Notes,
	}
	for _, v := range d.Devices {
		w.Devices = append(w.Devices, &pb.Device{Name: v.Name, Kind: v.Kind, Info: v.Info, Id: v.ID, Driver: v.Driver, Memory: uint64(max(0, v.Memory))})
	}
	for _, o := range d.Operators {
		w.Operators = append(w.Operators, &pb.Operator{Type: o.Type, Device: o.Device, Note: o.Note})
	}
	return w
}

func descriptionFromWire(w *pb.DescribeResponse) backend.Description {
	text := format.Visible // nothing that a plugin says controls a terminal
	texts := func(all []string) (visible []string) {
		for _, s := range all {
			visible = append(visible, text(s))
		}
		return visible
	}
	d := backend.Description{
		Name: text(w.GetName()), Version: text(w.GetVersion()), Numerics: text(w.GetNumerics()), Determinism: text(w.GetDeterminism()),
		Precisions: texts(w.GetPrecisions()), Losses: texts(w.GetLosses()), Notes: texts(w.GetNotes()),
	}
	for _, v := range w.GetDevices() {
		d.Devices = append(d.Devices, backend.Device{
			Name: text(v.GetName()), Kind: text(v.GetKind()), Info: text(v.GetInfo()),
			ID: text(v.GetId()), Driver: text(v.GetDriver()), Memory: int64(min(v.GetMemory(), math.MaxInt64)),
		})
	}
	for _, o := range w.GetOperators() {
		d.Operators = append(d.Operators, backend.Operator{Type: text(o.GetType()), Device: text(o.GetDevice()), Note: text(o.GetNote())})
	}
	return d
}
