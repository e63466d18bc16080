// Package export turns a trained network into a file that other people's
// programs open: an ONNX model, or a BioImage Model Zoo package around one.
//
// Write makes the file under a temporary name, certifies it and renames it; an
// export that does not certify does not appear under its name. The certificate
// is stored beside it. Certification reads the file back from disk and checks
// its structure, its shapes at three sizes, every bit of its weights, its
// metadata, its parameter totals, and its predictions: those of the backend
// that trained the network, and where they are installed those of ONNX Runtime
// and OpenCV, on probabilities and on what goes into the last softmax.
//
// The same Model and Options give the same bytes; a Model therefore carries
// the time of its training and nothing here asks for the time.
package export
