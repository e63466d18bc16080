// Package store keeps what a study produces, addressed by content.
//
//	artifacts/
//	  data/<digest>/       exit waves, images and labels (package dataset)
//	  runs/<digest>/       manifest.json · history.json · weights.safetensors · losses.safetensors
//	                       (of every validation image), and network.onnx where the network
//	                       came from elsewhere
//	                       (its weights may be dropped, which a mark in their place says)
//	  runs/.work/<digest>/<n>/  an unfinished run's last checkpoint, of its nth attempt
//	  runs/.attempts/<digest>/  the ledger: a record and a log of every attempt
//	  runs/.damaged/       finished runs that were found damaged and made again
//	  reports/<name>/      reports, figures and exported models
//
// A digest hashes everything that determines a run's content (see Digest) and
// never a time or a host. A run's directory is written under a temporary name
// and renamed (package files), so that it exists whole or not at all; its manifest
// lists the SHA-256 of every file.
//
// # Claims
//
// Claim gives a run to one process at a time, of any machine that reaches the store. It
// asks of the file system that of several processes which create a file of one name one
// succeeds, and that folders are renamed at once, as network file systems do too. No
// locks are used, which some of them keep to one machine, and no clocks are compared.
//
// The nth attempt at a run is the file n.json in its folder of the ledger. Who creates
// it has the run, and changes it every ten seconds. Who finds the file of the highest
// number without an end, and sees for a minute by its own clock that it does not change
// (or knows at once that the process, on the same machine, has ended), creates the file
// of the next number. So a run is taken over by one process exactly, and the one it
// was taken from finds a higher number than its own, and stops. Every attempt writes
// into a folder of its own number, goes on from the last checkpoint that is whole of
// those before, and publishes by one rename. Two that work at once in spite of it all
// waste time and do no harm: both come to the same bytes.
package store
