package files

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
)

// A sealed file of JSON ends with the SHA-256 of all that stands before it, so that
// a manifest, which lists the digests of other files, has one itself:
//
//	  …
//	  "seal": "6c1f…"
//	}
//
// A seal tells damage and not deceit: who writes a file can seal it.
const sealBegin, sealEnd = ",\n  \"seal\": \"", "\"\n}\n"

const sealLength = len(sealBegin) + 64 + len(sealEnd)

// SealJSON writes v, an object with at least one field and none called seal, as JSON
// for people, and seals it.
func SealJSON(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	return append(append(b[:len(b)-len("\n}\n"):len(b)-len("\n}\n")], sealBegin...), Sum(b)+sealEnd...), nil
}

// Unseal returns the content of the file at path as it was before SealJSON sealed it,
// or as it is where it has no seal, as before refocus sealed its manifests. A seal
// that does not fit is a *Damage.
func Unseal(path string, content []byte) (unsealed []byte, sealed bool, err error) {
	n := len(content) - sealLength
	if n < 0 || !bytes.HasPrefix(content[n:], []byte(sealBegin)) || !bytes.HasSuffix(content, []byte(sealEnd)) {
		return content, false, nil
	}
	seal := string(content[n+len(sealBegin) : len(content)-len(sealEnd)])
	if b, err := hex.DecodeString(seal); err != nil || len(b) != 32 {
		return nil, true, &Damage{path, "its seal is no SHA-256"}
	}
	unsealed = append(content[:n:n], "\n}\n"...)
	if got := Sum(unsealed); got != seal {
		return nil, true, &Damage{path, "its SHA-256 is " + got + ", its seal says " + seal}
	}
	return unsealed, true, nil
}
