package onnx

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/half"
)

// toHalf rounds to the nearest float16. A value beyond its range is an error: an
// infinite weight would make a network useless without a sign.
func toHalf(x float32) (uint16, error) {
	h := half.Bits(x)
	if h&0x7c00 == 0x7c00 { // infinite or NaN
		return 0, fmt.Errorf("%g does not fit into float16", x)
	}
	return h, nil
}
