package files

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The roots of the first n of eight inputs are those that the implementations of
// Certificate Transparency are tested with (google/certificate-transparency,
// merkletree/merkle_tree_test.cc).
func TestRootIsRFC6962(t *testing.T) {
	inputs := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var leaves [][sha256.Size]byte
	for n, want := range roots {
		if got := treeHash(leaves); got != want {
			t.Errorf("the root of %d inputs is %s, want %s", n, got, want)
		}
		if n < len(inputs) {
			b, err := hex.DecodeString(inputs[n])
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, sha256.Sum256(append([]byte{0}, b...)))
		}
	}
}

func TestRoot(t *testing.T) {
	a, b, c := Of("runs/a", []byte("a")), Of("runs/b", []byte("b")), Of("data/c", nil)
	root := Root([]File{a, b, c})
	if Root([]File{c, b, a}) != root {
		t.Error("the order in which files are told changes the root")
	}
	renamed := b
	renamed.Name = "runs/d"
	for name, other := range map[string][]File{"fewer": {a, b}, "renamed": {a, renamed, c}, "content": {a, Of(b.Name, []byte("c")), c}, "none": nil} {
		if Root(other) == root {
			t.Errorf("%s: the root is the same", name)
		}
	}
	again, err := ParseSums(a.SumLine() + b.SumLine() + c.SumLine())
	if err != nil || Root(again) != root {
		t.Errorf("from the lines: %v", err)
	}
	for _, bad := range []string{
		"x", strings.TrimSuffix(a.SumLine(), "\n"), strings.ToUpper(a.SHA256) + "  a\n", a.SHA256[1:] + "  a\n", a.SHA256 + " a\n",
		a.SHA256 + "  ../a\n", a.SHA256 + "  /a\n", a.SHA256 + "  a/../../b\n", a.SHA256 + "  a\\b\n", a.SHA256 + "  .\n", a.SHA256 + "  \n", a.SumLine() + a.SumLine(),
	} {
		if got, err := ParseSums(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}

func TestWriteSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for range 2 {
		if err := WriteSecret(path, []byte("secret")); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "secret" {
		t.Errorf("%q, %v", b, err)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("others may do with it what %v says", st.Mode())
	}
}
