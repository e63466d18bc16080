// Package nn describes a network as a graph of ONNX operators: the one
// description that is trained, exported, re-imported and cross-checked.
//
// A Graph lists its operators (Node) in execution order and its constant
// tensors (Tensor): trainable parameters, BatchNormalization statistics and
// constants. UNet builds the network of the study. Shapes infers every value's
// shape for a given input. Initialize draws initial weights.
//
// Operators have the semantics of the ONNX specification at Opset, with one
// addition that ONNX leaves to the framework: in training mode a
// BatchNormalization node normalises with the batch's biased variance and
// moves its running statistics as PyTorch does,
//
//	mean ← m·mean + (1−m)·batch mean
//	var  ← m·var  + (1−m)·batch variance, unbiased (n−1)
//
// with m the node's ONNX attribute "momentum" (0.9, PyTorch's momentum 0.1).
//
// Parameters are grouped by the part of their name before the first dot; a
// training stage freezes whole groups ("encoder", "decoder").
package nn
