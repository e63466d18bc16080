// Package driver calls the CUDA driver API without cgo: the library that comes with
// NVIDIA's driver is loaded when it is asked for, so that one binary serves machines
// with a GPU and without.
//
// API is the table of the driver's functions that the backend uses, with C's own
// signatures; Load fills it from the library, and tests fill it with functions of
// their own. Error is what a failed call comes to.
//
// Names, types and constants are those of cuda.h. Where the header hides a suffix
// (cuMemAlloc is cuMemAlloc_v2 in the library; the function without it is that of
// CUDA 3), the table names the function that the header means.
package driver
