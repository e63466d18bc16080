package fast

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// advise asks for pages of 2 MiB: the transforms write to tens of addresses far
// apart, for which the table of 4 KiB pages is too small. It is advice; a
// failure changes nothing but the speed.
func advise(x []float32) {
	const page = 2 << 20
	address := uintptr(unsafe.Pointer(unsafe.SliceData(x)))
	skip := int(-address&(page-1)) / 4
	n := (len(x) - skip) / (page / 4) * (page / 4)
	if n <= 0 {
		return
	}
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Pointer(&x[skip])), 4*n), unix.MADV_HUGEPAGE)
}
