// Package reproduce carries out a study: it makes the data sets a plan needs,
// resolves every run to the Spec that addresses it in the store (Resolved), and
// trains what the store lacks in any number of backend processes at once. It also
// says how far a study is, verifies what a store holds, and trains finished runs
// again from what the store says of them (Retrainer).
//
// Nothing here changes a result: the order of runs, the number of processes and
// threads, interruptions and restarts are free, and several harnesses may work
// on one store (each takes runs that no other has claimed).
package reproduce
