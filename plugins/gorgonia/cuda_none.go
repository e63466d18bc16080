//go:build !cuda

package gorgonia

func cuda() platform { return platform{note: "CUDA: not in this build (it needs -tags cuda and cgo)"} }
