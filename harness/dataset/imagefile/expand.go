package imagefile

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Named says what a path stood for.
type Named int

const (
	File    Named = iota // itself, whether there or not
	Folder               // the files in it
	Pattern              // the files that match
)

// Expand lists the files that a path, "FILE" or "FILE:ARRAY", a folder or a pattern
// as of path/filepath.Match, with or without ":ARRAY", stands for. Those of a
// folder or a pattern come in natural order, img2 before img10; hidden files of a
// folder, and what is no file, are left out.
func Expand(path string) ([]string, Named, error) {
	var names []string
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return []string{path}, File, nil
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, Folder, err
		}
		for _, e := range entries {
			if name := filepath.Join(path, e.Name()); !strings.HasPrefix(e.Name(), ".") && regular(name) {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			return nil, Folder, fmt.Errorf("%s holds no files", path)
		}
		slices.SortFunc(names, natural)
		return names, Folder, nil
	}
	file, array := SplitPath(path)
	if !strings.ContainsAny(file, "*?[") || regular(file) {
		return []string{path}, File, nil
	}
	names, err := filepath.Glob(file)
	if err != nil {
		return nil, Pattern, fmt.Errorf("%s: %w", file, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !regular(name) })
	if len(names) == 0 {
		return nil, Pattern, fmt.Errorf("no file matches %s", file)
	}
	slices.SortFunc(names, natural)
	if array != "" {
		for i := range names {
			names[i] += ":" + array
		}
	}
	return names, Pattern, nil
}

func regular(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// natural compares names with the numbers in them as numbers.
func natural(a, b string) int {
	digits := func(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
	whole := cmp.Compare(a, b)
	for a != "" && b != "" {
		if m, n := digits(a), digits(b); m > 0 && n > 0 {
			x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[m:], b[n:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), whole)
}
