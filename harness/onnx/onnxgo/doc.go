// Package onnxgo reads ONNX files a second time, through
// github.com/owulveryck/onnx-go, and compares what it finds with what package
// onnx reads: two readers that share no code must see the same network. The
// certificate of an export rests on it.
//
// onnx-go decodes into a backend, ours records every operator. It is handed a
// model that the scan of the wire format has found sound, without what makes
// it allocate or panic: the types of inputs and outputs, tensors without
// elements. It reads float32, float64, int32 and int64 tensors inside the file.
package onnxgo
