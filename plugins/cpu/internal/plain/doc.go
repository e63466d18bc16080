// Package plain executes graphs with ordinary Go loops, in float32 or float64.
//
// It is the CPU backend's oracle and its engine for graphs that the fast one
// does not take: every operator is written as its definition reads, only
// convolutions go through a matrix product over gathered patches so that a
// float32 network of modest width trains in acceptable time.
//
// Results do not depend on the number of threads or on the machine. Work is
// divided among threads by output element; every sum is one chain, or blocks of
// one chain added in order, whose lengths follow from the shapes alone; products
// are rounded by explicit conversions before they are added, so that no compiler
// fuses them; sums over whole images (batch statistics, losses) are taken in
// float64.
package plain
