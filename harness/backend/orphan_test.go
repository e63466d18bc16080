//go:build unix

package backend

func hostForTest() {}
