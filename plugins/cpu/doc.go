// Package cpu is the CPU reference backend.
//
// New returns the backend; cmd/refocus-backend-cpu serves it as a plugin. A
// session keeps one network in an engine (internal/engine): the fast one where
// it takes the graph and the precision, otherwise the plain one, which executes
// every operator that the backend has and is the only one for float64. The
// environment variable REFOCUS_CPU_ENGINE=plain or fast insists on one, for
// tests and for cross-checks.
//
// Results are the same bits whatever the number of threads and the machine.
package cpu
