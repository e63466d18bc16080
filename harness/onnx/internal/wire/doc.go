// Package wire reads the protobuf wire format of ONNX files.
//
// Scan reads a model's structure and refuses what is damaged or hostile
// (truncated messages, data that do not fill their shape, names used twice,
// missing initialisers, cycles) before anything is allocated for it. What it
// keeps points into the file's bytes; Tensor.Array decodes the data of one
// tensor when it is asked for, in memory proportional to the bytes that it
// has in the file.
//
// Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
package wire
