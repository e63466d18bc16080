// Package store keeps what a study produces, addressed by content.
//
//	artifacts/
//	  data/<digest>/       exit waves, images and labels (package dataset)
//	  runs/<digest>/       manifest.json · history.json · weights.safetensors, and network.onnx
//	                       where the network came from elsewhere
//	  runs/.work/<digest>/ an unfinished run's last checkpoint; its lock lies beside
//	  runs/.damaged/       finished runs that were found damaged and made again
//	  reports/<name>/      reports, figures and exported models
//
// A digest hashes everything that determines a run's content (see Digest) and
// never a time or a host. A run's directory is written under a temporary name
// and renamed (package files), so that it exists whole or not at all; its manifest
// lists the SHA-256 of every file. Claim gives a run to one process at a time by a
// lock the operating system releases when the process dies, whatever kills it.
package store
