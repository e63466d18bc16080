//go:build cuda

// Package probe checks for a usable NVIDIA driver and cuDNN before package cu
// does: cu initialises CUDA when the program starts and, where that fails,
// prints a line to standard output, which belongs to the plugin protocol, and
// exits. Go initialises packages by import path as far as their imports allow,
// and this one's comes before gorgonia.org/cu.
package probe

// #cgo LDFLAGS: -lcuda -lcudnn
// #include <cuda.h>
// #include <cudnn.h>
import "C"

import (
	"fmt"
	"os"
)

// What gorgonia.org/cu is made for: it names functions that later versions of
// cuDNN dropped, and earlier drivers lack functions it names.
const (
	minDriver = 11000 // CUDA 11.0
	cudnn     = 8
)

func init() {
	if line := check(); line != "" {
		fmt.Fprintf(os.Stderr, "refocus-backend-gorgonia was built for CUDA, but %s; use a build without -tags cuda on this machine\n", line)
		os.Exit(1)
	}
}

// check says what is missing, in words.
func check() string {
	if r := C.cuInit(0); r != C.CUDA_SUCCESS {
		var text *C.char
		if C.cuGetErrorString(r, &text) != C.CUDA_SUCCESS {
			return fmt.Sprintf("the NVIDIA driver reports error %d", int(r))
		}
		return fmt.Sprintf("the NVIDIA driver reports: %s", C.GoString(text))
	}
	var v C.int
	if r := C.cuDriverGetVersion(&v); r != C.CUDA_SUCCESS || v < minDriver {
		return fmt.Sprintf("the NVIDIA driver is for CUDA %d.%d, 11.0 is needed", v/1000, v%1000/10)
	}
	if v := C.cudnnGetVersion(); v/1000 != cudnn {
		return fmt.Sprintf("cuDNN is version %d.%d, version %d is needed", v/1000, v%1000/100, cudnn)
	}
	return ""
}
