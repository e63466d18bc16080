// Package onnx writes networks as ONNX files and reads ONNX files back.
//
// Marshal writes an nn.Graph in the one form that was found to load in every
// consumer that matters to microscopists (ONNX Runtime, OpenCV 4.6 to 5.0, the
// onnx checker, onnx-go): opset 13, IR version 7, raw little-endian
// initialisers inside the file, a batch dimension named "N", height and width
// as empty dimensions, no Identity nodes, no empty tensors, BatchNormalization
// kept as nodes. The same graph and options give the same bytes.
//
// Unmarshal and ReadFile read such files, and segmentation networks exported by
// other frameworks at opsets 7 to 28, into an nn.Graph; ReadFile also follows
// weights into the other files of the model's folder. Package internal/wire
// scans the protobuf wire format first and refuses what is damaged or hostile
// before anything is allocated for it. The import then states the operators in
// the form that package nn describes, with the semantics of the ONNX
// specification at opset 13, later operators in terms of its; an operator,
// attribute or value outside that set is refused by name, never approximated.
// Package onnxgo reads files a second time, with other code, for certificates
// and tests.
//
// Formats: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and
// https://github.com/onnx/onnx/blob/main/docs/Operators.md
package onnx
