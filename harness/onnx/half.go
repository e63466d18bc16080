package onnx

import (
	"fmt"
	"math"
)

// toHalf rounds to the nearest float16, ties to even. A value beyond its range
// is an error: an infinite weight would make a network useless without a sign.
func toHalf(x float32) (uint16, error) {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	a := float64(math.Abs(float64(x)))
	switch {
	case a != a || a >= 65520: // 65504 is the largest, 65520 rounds beyond it
		return 0, fmt.Errorf("%g does not fit into float16", x)
	case a == 0:
		return sign, nil
	}
	_, e := math.Frexp(a)                               // a = f·2^e with f in [½,1)
	e = max(e, -13)                                     // subnormal below 2^-14
	m := math.RoundToEven(a * math.Exp2(float64(11-e))) // in units of the last place
	// m is 1024…2048 for a normal number; 2048 carries into the exponent
	return sign | uint16(int(m)+(e+13)<<10), nil
}
