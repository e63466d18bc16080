// Package half converts between float32 and IEEE 754 half precision, with the
// bits that a processor's own conversion gives.
package half

import "math"

// Bits returns x in half precision: to nearest even, beyond 65504 to infinity,
// NaN to a quiet NaN with the leading bits of its payload.
func Bits(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00 | uint16(b>>13&0x1ff)
	case b >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case b < 0x38800000: // below 2⁻¹⁴: a subnormal, in units of 2⁻²⁴
		// Adding 0.5 puts one unit at the last place of the sum, which the
		// addition then rounds to nearest even.
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	}
	b += 0xfff + b>>13&1 // round to nearest even at bit 13
	return sign | uint16((b-0x38000000)>>13)
}

// Float32 returns the value of a half-precision number.
func Float32(h uint16) float32 {
	sign, e, m := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch {
	case e == 31 && m != 0:
		return math.Float32frombits(sign | 0x7fc00000 | m<<13)
	case e == 31:
		return math.Float32frombits(sign | 0x7f800000)
	case e == 0:
		return math.Float32frombits(math.Float32bits(float32(m)*0x1p-24) | sign)
	}
	return math.Float32frombits(sign | (e+112)<<23 | m<<13)
}

// Round rounds x to half precision.
func Round(x float32) float32 { return Float32(Bits(x)) }
