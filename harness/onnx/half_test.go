package onnx

import (
	"math"
	"testing"
)

// fromHalf is the definition of the format.
func fromHalf(h uint16) float64 {
	s, e, m := h>>15, int(h>>10&31), float64(h&1023)
	v := math.Ldexp(1024+m, e-25)
	if e == 0 {
		v = math.Ldexp(m, -24)
	}
	if s == 1 {
		v = -v
	}
	return v
}

func TestHalf(t *testing.T) {
	half := func(x float64) uint16 {
		h, err := toHalf(float32(x))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for h := range uint16(0x7c00) { // every finite one, and what lies between
		a, b := fromHalf(h), 65520.0
		if h < 0x7bff {
			b = fromHalf(h + 1)
		}
		if g := half(a); g != h {
			t.Fatalf("%#x = %g became %#x", h, a, g)
		}
		if g := half(-a); g != h|0x8000 {
			t.Fatalf("-%g became %#x", a, g)
		}
		if h == 0x7bff {
			break
		}
		mid := (a + b) / 2 // exact in float32
		even := h + h&1
		if g := half(mid); g != even {
			t.Fatalf("%g, between %#x and its successor, became %#x", mid, h, g)
		}
		if g := half(float64(math.Nextafter32(float32(mid), 0))); g != h {
			t.Fatalf("just below %g became %#x, want %#x", mid, g, h)
		}
		if g := half(float64(math.Nextafter32(float32(mid), 1e9))); g != h+1 {
			t.Fatalf("just above %g became %#x, want %#x", mid, g, h+1)
		}
	}
	for _, x := range []float64{65520, math.Inf(1), math.NaN(), -1e9} {
		if _, err := toHalf(float32(x)); err == nil {
			t.Errorf("accepted %g", x)
		}
	}
}
