//go:build !amd64

package kernel

// native lists the sets in assembly; there are none here.
var native []*Set
