// Package engine makes a backend of arithmetic.
//
// An author writes an Engine: what one network computes, in the engine's own
// layout, on arrays that are handed to it. NewBackend makes a backend.Backend of
// it. Everything that is the same for all backends is written here, once: the
// refusal of options that the description does not list, datasets and the eight
// orientations of their images, batches, frozen groups, the optimiser's counter
// and the loss scale of mixed precision, evaluation, prediction in parts, states,
// and interruption.
//
// plugins/README.md is the guide; plugins/template is an engine to start from.
package engine
