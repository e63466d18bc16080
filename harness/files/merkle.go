package files

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// SumLine is the line that sha256sum writes of the file, and reads with -c.
func (f File) SumLine() string { return f.SHA256 + "  " + f.Name + "\n" }

// Root is the root of a Merkle tree over files, whose names are their paths below a
// folder, with slashes: one number that stands for the names and contents of all. It
// is the Merkle tree hash of RFC 6962, section 2.1, of the files' SumLines in the order
// of the bytes of their names. A leaf is SHA-256(0x00 ‖ line), a node
// SHA-256(0x01 ‖ left ‖ right), where the left subtree has the greatest power of two of
// leaves that is less than all; so no node can pass for a leaf.
func Root(all []File) string {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	leaves := make([][sha256.Size]byte, len(sorted))
	for i, f := range sorted {
		leaves[i] = sha256.Sum256([]byte("\x00" + f.SumLine()))
	}
	return treeHash(leaves)
}

func treeHash(leaves [][sha256.Size]byte) string {
	if len(leaves) == 0 {
		return Sum(nil)
	}
	root := subtree(leaves)
	return hex.EncodeToString(root[:])
}

func subtree(leaves [][sha256.Size]byte) [sha256.Size]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	left, right := subtree(leaves[:k]), subtree(leaves[k:])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

// ParseSums reads lines as SumLine writes them; sizes are not in them. Names must be
// paths that lie below a folder.
func ParseSums(text string) ([]File, error) {
	var all []File
	seen := map[string]bool{}
	for i, line := range strings.SplitAfter(text, "\n") {
		if line == "" {
			continue
		}
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		f := File{Name: name, SHA256: sum}
		b, err := hex.DecodeString(sum)
		switch {
		case !ok || err != nil || len(b) != sha256.Size || strings.ToLower(sum) != sum || f.SumLine() != line:
			return nil, fmt.Errorf("line %d is not a SHA-256, two spaces and a path", i+1)
		case !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\n"):
			return nil, fmt.Errorf("line %d: %q is not a path below the folder", i+1, name)
		case seen[name]:
			return nil, fmt.Errorf("line %d: %q is there twice", i+1, name)
		}
		seen[name] = true
		all = append(all, f)
	}
	return all, nil
}
