//go:build !amd64 || noasm

package kernel

var assembly = false

const none = "kernel: no assembly in this build"

func tile4x16(k int, a, b, c *float32, add int)                                    { panic(none) }
func dot4x3(p *dotArgs)                                                            { panic(none) }
func sumLanes(s *[wide]float32, x *float32, n int)                                 { panic(none) }
func squareLanes(s *[wide]float32, x *float32, n int, m float32)                   { panic(none) }
func productLanes(s *[2][wide]float32, x, y, dy *float32, n int, m float32, r int) { panic(none) }
func affineLanes(y, x *float32, n int, k, t float32, r int)                        { panic(none) }
func combineLanes(dx, x, y, dy *float32, n int, k, p, q float32, r int)            { panic(none) }
