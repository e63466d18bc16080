// Package predict segments micrographs of any size with a trained network.
//
// Load reads an ONNX file, or a package of the BioImage Model Zoo, and finds out
// what its makers have left unsaid: how an image is prepared (Preparation), how
// the network's output becomes probabilities (a softmax, a sigmoid, logits, an
// arg-max), which sizes it takes. What was decided is in Segmenter.Notes.
//
// An image is repaired, brought to the network's pixel size where both are known
// (package micrograph), prepared as a whole, padded by reflection to sizes that the
// network takes, and predicted in tiles. A tile overlaps its neighbours by the
// network's receptive field, begins where the network's grid begins, and ends at
// the image's border where it reaches it; its inner part is therefore what a
// prediction of the whole image would give, up to rounding, and memory is bounded
// by the tile. A network of fixed size sets the size of the tiles. The
// probabilities are brought back to the file's pixels, in which particles are found
// and measured (package measure).
//
// Files writes, for every image, the probability map (float32 TIFF), a binary mask
// (PNG), a label image whose grey values number the particles (PNG of 16 bits), an
// overlay to look at (PNG), outlines for ImageJ (ZIP of ROIs) and QuPath (GeoJSON),
// and a record by which a later run knows that this image is done (JSON); and over
// all images a table of the particles (CSV, JSON) and a page (HTML).
package predict
