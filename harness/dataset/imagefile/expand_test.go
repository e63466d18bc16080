package imagefile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"img10.h5", "img2.h5", "img1.h5", "img02.h5", ".hidden", "a[1].tif"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "img3.h5"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind Named
		want []string
	}{
		{"", Folder, []string{"a[1].tif", "img1.h5", "img02.h5", "img2.h5", "img10.h5"}},
		{"img?.h5", Pattern, []string{"img1.h5", "img2.h5"}},
		{"img*.h5:x", Pattern, []string{"img1.h5:x", "img02.h5:x", "img2.h5:x", "img10.h5:x"}},
		{"img1.h5:x", File, []string{"img1.h5:x"}},
		{"missing.tif", File, []string{"missing.tif"}},
		{"a[1].tif", File, []string{"a[1].tif"}},
		{"a[1].tif:0", File, []string{"a[1].tif:0"}},
	} {
		got, kind, err := Expand(filepath.Join(dir, c.path))
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], dir+string(filepath.Separator))
		}
		if err != nil || kind != c.kind || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v, %v, want %q, %v", c.path, got, kind, err, c.want, c.kind)
		}
	}
	for path, problem := range map[string]string{"x*": "no file matches", "[": "syntax error", "img3.h5": "holds no files"} {
		if _, _, err := Expand(filepath.Join(dir, path)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v, want %q", path, err, problem)
		}
	}
}
