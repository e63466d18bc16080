package onnx

// NodeError refuses an operator of a file: its type, an attribute, or an input
// with which this package does not know it. The file itself may be valid ONNX.
type NodeError struct {
	Node string // as in `node "encoder.init.conv" (Conv)`
	Err  error
}

func (e *NodeError) Error() string { return e.Node + ": " + e.Err.Error() }

func (e *NodeError) Unwrap() error { return e.Err }
