// Package train runs one stage of the study's protocol over a backend session:
// epochs of shuffled, dihedrally augmented minibatches with a decaying learning
// rate, validation on every domain after each epoch, the best epoch on the
// target domain kept, a checkpoint after every epoch.
//
// A Spec holds everything that determines the outcome; its digest addresses the
// run in the store. The harness decides every number the backend is given, so
// the same Spec gives every backend the same batches.
package train
