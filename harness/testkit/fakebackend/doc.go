// Package fakebackend is a backend for tests of the protocol around it. It does
// no arithmetic worth the name: each step folds the batch, the learning rate and
// the frozen groups into one number, so that any difference in what a session
// was asked, or in what order, shows in its state and in its losses.
package fakebackend
