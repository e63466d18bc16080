// Package train runs one stage of the study's protocol over a backend session:
// epochs of shuffled, dihedrally augmented minibatches with a decaying learning
// rate, validation on every domain after each epoch, the best epoch on the
// target domain kept, a checkpoint after every epoch.
//
// A Spec holds everything that determines the outcome; its digest addresses the
// run in the store. The harness decides every number the backend is given, so
// the same Spec gives every backend the same batches.
//
// # The way of a batch
//
//  1. A study.Run says how many images of which domains an epoch has.
//  2. Package reproduce adds the digests and sizes of their data sets: Spec.Data.
//  3. Spec.batches puts the epoch in order: backend.Batch, lists of image and
//     symmetry. No type changes from here to the plugin.
//  4. The client of backend/plugin packs the epoch into one message;
//  5. the server in the plugin's process unpacks it.
//  6. The session of backend/engine reads a batch's images from the data set's
//     file and turns them: engine.Batch, pixels and labels.
//  7. The plugin's Engine takes the step; its loss comes back as a backend.Step.
package train
