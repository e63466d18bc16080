// Package dataset makes, keeps and serves labelled image sets, simulated or the
// user's own.
//
// A [Source] is everything that determines one set of simulated images: the
// structures (a simulation, a seed, a split) and the imaging conditions. Its
// digest is known before anything is computed and names the set's folder.
// [Generate] simulates what is missing, [Import] brings in a user's files, and
// both leave the same thing behind:
//
//	data/<digest>/images.safetensors   "images" F32 [N,1,H,W], each of mean 0 and variance 1
//	                                   "labels" U8 [N,H,W], class indices
//	data/<digest>/manifest.json        what made them, and how every single one was made
//
// A user's training images of which patches are cut have a third file, with the
// images as a whole; [Patches] cuts an epoch's from it, at places drawn from a named
// stream, into a file that a backend takes like any set:
//
//	data/<digest>/whole.safetensors    "image K" F32 [H,W], "label K" U8 [H,W] (255 for void),
//	                                   "patches" I64 [N,3]: image, row, column
//
// Exit waves are kept once per structure and serve every defocus and every dose:
//
//	data/<digest>/000012.safetensors   "waves" F32 [phonons,size,size,2], "label" U8 [crop,crop]
//	data/<digest>/000012.json          the structure's parameters and the file's SHA-256
//	data/<digest>/manifest.json        the simulation, seed and split
//
// Structure i depends on the simulation, the seed, the split and i alone, so a
// set can grow, shrink or be finished later and its first structures stay what
// they were. A set exists when its manifest does: that file is written last,
// every file is written under a temporary name, synced and renamed, and the
// bytes depend on nothing but the source. Killed at any moment, a generation
// goes on from the structures it had finished. Two processes that make the same
// set at once share the work; they write the same bytes, so that they could not
// harm one another even if they did not.
//
// Package imagefile reads the file formats, package outline what people outlined in
// other programs, package sheet draws contact sheets.
package dataset
