package ptx

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// typ is a type of PTX: its kind (b, u, s, f, or p for predicates) and width.
type typ struct {
	kind byte
	bits int
}

func (t typ) String() string {
	if t.kind == 'p' {
		return "pred"
	}
	return string(t.kind) + strconv.Itoa(t.bits)
}

// typeOf reads a type's name.
func typeOf(name string) (typ, bool) {
	switch name {
	case "pred":
		return typ{'p', 1}, true
	case "b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "b64", "u64", "s64", "f16", "f32", "f64":
		n, _ := strconv.Atoi(name[1:])
		return typ{name[0], n}, true
	}
	return typ{}, false
}

// mask has the type's bits set.
func (t typ) mask() uint64 { return math.MaxUint64 >> (64 - t.bits) }

// signed is the value of t's bits as a signed number.
func (t typ) signed(x uint64) int64 { return int64(x<<(64-t.bits)) >> (64 - t.bits) }

// immediate is the bits of a constant as a t, or what is wrong with it.
func (t typ) immediate(o operand) (bits uint64, problem string) {
	switch {
	case o.kind == integer && t.kind != 'f':
		if fits := o.bits&^t.mask() == 0 || o.minus && uint64(t.signed(o.bits)) == o.bits; !fits {
			return 0, fmt.Sprintf("%s does not fit %s", o, t)
		}
		return o.bits & t.mask(), ""
	case o.kind == float32s && t.bits == 32, o.kind == float64s && t.bits == 64:
		return o.bits, ""
	}
	return 0, fmt.Sprintf("%s is no constant of type %s", o, t)
}

// putBytes writes the low bytes of x, getBytes reads them.
func putBytes(b []byte, x uint64) {
	switch len(b) {
	case 1:
		b[0] = byte(x)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(x))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(x))
	case 8:
		binary.LittleEndian.PutUint64(b, x)
	}
}

func getBytes(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	case 8:
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// lanes calls f for every lane of a mask.
func lanes(m uint32, f func(l int)) {
	for ; m != 0; m &= m - 1 {
		f(bits.TrailingZeros32(m))
	}
}
