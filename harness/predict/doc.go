// Package predict segments micrographs of any size with a trained network.
//
// Load reads an ONNX file, or a package of the BioImage Model Zoo, and finds out
// what its makers have left unsaid: how an image is prepared (Preparation), how
// the network's output becomes probabilities (a softmax, a sigmoid, logits, an
// arg-max), which sizes it takes. What was decided is in Segmenter.Notes.
//
// An image is prepared as a whole, padded by reflection to sizes that the network
// takes, and predicted in tiles. A tile overlaps its neighbours by the network's
// receptive field, begins where the network's grid begins, and ends at the
// image's border where it reaches it; its inner part is therefore what a
// prediction of the whole image would give, up to rounding, and memory is bounded
// by the tile. A network of fixed size sets the size of the tiles.
//
// Files writes, for every image, the probability map (NPY and float32 TIFF), a
// binary mask (PNG), a label image whose grey values number the particles (PNG
// of 16 bits), a table of the particles with area and equivalent diameter
// (CSV), and an overlay to look at (PNG).
package predict
