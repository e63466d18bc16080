package half

import (
	"math"
	"testing"
)

// value is the definition of the format, in float64.
func value(h uint16) float64 {
	s, e, m := 1.0, int(h>>10&31), float64(h&0x3ff)
	if h&0x8000 != 0 {
		s = -1
	}
	switch e {
	case 31:
		return s * math.Inf(1)
	case 0:
		return s * math.Ldexp(m, -24)
	}
	return s * math.Ldexp(1024+m, e-25)
}

// Every half-precision number converts exactly both ways.
func TestAllValues(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		x := Float32(h)
		if h>>10&31 == 31 && h&0x3ff != 0 {
			if x == x || Bits(x)&0x7e00 != 0x7e00 {
				t.Errorf("%04x: NaN became %v, %04x", h, x, Bits(x))
			}
			continue
		}
		if float64(x) != value(h) || Bits(x) != h {
			t.Errorf("%04x: %v, want %v; back %04x", h, x, value(h), Bits(x))
		}
	}
}

// Between every two neighbours the midpoint goes to the even one, and what is
// next to the midpoint on either side to the nearer one.
func TestRounding(t *testing.T) {
	for h := uint16(0); h < 0x7c00; h++ {
		next := value(h + 1)
		if h+1 == 0x7c00 {
			next = 65536
		}
		mid := float32((value(h) + next) / 2)
		for _, sign := range []uint16{0, 0x8000} {
			x := mid
			if sign != 0 {
				x = -mid
			}
			up, down := math.Nextafter32(x, 2*x), math.Nextafter32(x, 0)
			if got := Bits(x); got != sign|(h+h&1) {
				t.Errorf("midpoint %v after %04x: %04x", x, h, got)
			}
			if got := Bits(up); got != sign|(h+1) {
				t.Errorf("%v: %04x, want %04x", up, got, sign|(h+1))
			}
			if got := Bits(down); got != sign|h {
				t.Errorf("%v: %04x, want %04x", down, got, sign|h)
			}
		}
	}
	for x, want := range map[float32]uint16{
		65519: 0x7bff, 65520: 0x7c00, 1e30: 0x7c00, float32(math.Inf(-1)): 0xfc00, 1e-30: 0, math.SmallestNonzeroFloat32: 0,
	} {
		if got := Bits(x); got != want {
			t.Errorf("%v: %04x, want %04x", x, got, want)
		}
	}
}
