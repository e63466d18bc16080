// Package onnx writes networks as ONNX files and reads ONNX files back.
//
// Marshal writes an nn.Graph in the one form that was found to load in every
// consumer that matters to microscopists (ONNX Runtime, OpenCV 4.6 to 5.0, the
// onnx checker, onnx-go): opset 13, IR version 7, raw little-endian
// initialisers inside the file, a batch dimension named "N", height and width
// as empty dimensions, no Identity nodes, no empty tensors, BatchNormalization
// kept as nodes. The same graph and options give the same bytes.
//
// Unmarshal reads such files, and U-Nets exported by other frameworks, into
// an nn.Graph. A scan of the protobuf wire format comes first. It refuses what
// is damaged or hostile (truncated messages, data that do not fill their
// shape, external files, names used twice, missing initialisers, cycles)
// before anything is allocated for it, and it keeps what the decoder does not
// pass on: operator sets, node names, metadata, dynamic dimensions. The model
// itself is decoded by github.com/owulveryck/onnx-go into a backend of our own
// that records every operator; the two readings must agree. Import then states
// the operators in the form that package nn describes, with the semantics of
// the ONNX specification at opset 13; an operator, attribute or value outside
// that set is refused by name, never approximated.
//
// Formats: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and
// https://github.com/onnx/onnx/blob/main/docs/Operators.md
package onnx
