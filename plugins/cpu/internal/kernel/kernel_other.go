//go:build !amd64

package kernel

// native is the set of assembly kernels; there are none here.
var native *Set
