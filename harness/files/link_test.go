package files

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestLink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege here")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "link")
	for _, target := range []string{"a", "/b"} {
		if err := Link(target, path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); got != target || err != nil {
			t.Errorf("links to %q, %v; want %q", got, err, target)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Link("a", file); err == nil {
		t.Error("a file was replaced")
	}
	if err := Link("a", filepath.Join(dir, "none", "link")); err == nil {
		t.Error("a link in no folder")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left %v, %v", entries, err)
	}
}
