package onnx

import (
	"math"
	"testing"
)

// The largest float16 is 65504; from 65520 on, values round beyond it.
func TestToHalf(t *testing.T) {
	for x, want := range map[float32]uint16{0: 0, -1: 0xbc00, 65504: 0x7bff, math.Nextafter32(65520, 0): 0x7bff, -65504: 0xfbff} {
		if got, err := toHalf(x); err != nil || got != want {
			t.Errorf("%g became %#x (%v), want %#x", x, got, err, want)
		}
	}
	for _, x := range []float64{65520, math.Inf(1), math.NaN(), -1e9} {
		if _, err := toHalf(float32(x)); err == nil {
			t.Errorf("accepted %g", x)
		}
	}
}
