// Package random gives every use of randomness in a study its own named stream.
//
// A stream is a ChaCha8 generator (math/rand/v2) whose 256-bit key is the
// SHA-256 digest of the study seed, the purpose and any number of indices.
// Streams of different purposes or indices are independent, so a structure, an
// epoch or a weight can be drawn in any order, on any thread, in any process,
// with the same result. Nothing in refocus uses a shared or a time-seeded
// generator.
package random

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// Stream returns the generator named by seed, purpose and indices.
//
// The key is SHA-256 over the little-endian seed, the length and bytes of
// purpose, and the little-endian indices.
func Stream(seed uint64, purpose string, indices ...uint64) *rand.Rand {
	b := make([]byte, 0, 16+len(purpose)+8*len(indices))
	b = binary.LittleEndian.AppendUint64(b, seed)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(purpose)))
	b = append(b, purpose...)
	for _, i := range indices {
		b = binary.LittleEndian.AppendUint64(b, i)
	}
	return rand.New(rand.NewChaCha8(sha256.Sum256(b)))
}
