package predict

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
)

// Input is a file to read and the name of its results.
type Input struct {
	Path, Name string
	// Found files were not named by the user but lie in a folder or match a
	// pattern: what is no image among them is left out.
	Found bool
}

// Inputs expands what a user names: files ("FILE" or "FILE:ARRAY"), folders and
// patterns as of path/filepath.Match, which some shells leave to programs. Files of
// a folder or a pattern come in natural order, img2 before img10; folders in it
// and hidden files are left out. The names are the files' without extension, with
// as much of the path before them, or the extension after, as tells them apart.
func Inputs(args []string) ([]Input, error) {
	var inputs []Input
	seen := map[string]bool{}
	add := func(path string, found bool) {
		if !seen[path] {
			seen[path] = true
			inputs = append(inputs, Input{Path: path, Found: found})
		}
	}
	for _, arg := range args {
		st, err := os.Stat(arg)
		switch {
		case err == nil && st.IsDir():
			entries, err := os.ReadDir(arg)
			if err != nil {
				return nil, err
			}
			var names []string
			for _, e := range entries {
				if st, err := os.Stat(filepath.Join(arg, e.Name())); err == nil && st.Mode().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
					names = append(names, e.Name())
				}
			}
			if names == nil {
				return nil, fmt.Errorf("%s holds no files", arg)
			}
			slices.SortFunc(names, natural)
			for _, n := range names {
				add(filepath.Join(arg, n), true)
			}
		case err != nil && strings.ContainsAny(arg, "*?["):
			found, err := filepath.Glob(arg)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", arg, err)
			}
			found = slices.DeleteFunc(found, func(p string) bool {
				st, err := os.Stat(p)
				return err != nil || !st.Mode().IsRegular()
			})
			if len(found) == 0 {
				return nil, fmt.Errorf("no file matches %s", arg)
			}
			slices.SortFunc(found, natural)
			for _, p := range found {
				add(p, true)
			}
		default:
			add(arg, false)
		}
	}
	return inputs, name(inputs)
}

// name gives every input the shortest name that tells it from the others. Case
// does not count, as on some file systems.
func name(inputs []Input) error {
	for i := range inputs {
		inputs[i].Name = baseName(inputs[i].Path, 0, false)
	}
	clashes := func() map[string][]int {
		by := map[string][]int{}
		for i, in := range inputs {
			n := strings.ToLower(in.Name)
			by[n] = append(by[n], i)
		}
		return by
	}
	for depth := 0; depth < 32; depth++ {
		done := true
		for _, same := range clashes() {
			if len(same) < 2 {
				continue
			}
			done = false
			for _, i := range same {
				inputs[i].Name = baseName(inputs[i].Path, depth, true)
			}
		}
		if done {
			return nil
		}
	}
	for _, same := range clashes() {
		if len(same) > 1 {
			return fmt.Errorf("%s and %s would be written under the same name", inputs[same[0]].Path, inputs[same[1]].Path)
		}
	}
	return nil
}

// baseName is the part of the results' names that stands for the file, with so
// many folders before it and, if asked for, the extension.
func baseName(path string, folders int, extension bool) string {
	file, array := imagefile.SplitPath(path)
	parts := strings.Split(filepath.ToSlash(filepath.Clean(file)), "/")
	last := parts[len(parts)-1]
	name := strings.TrimSuffix(last, filepath.Ext(last))
	if extension {
		name += strings.Replace(filepath.Ext(last), ".", "-", 1)
	}
	for i := len(parts) - 2; i >= 0 && folders > 0; i, folders = i-1, folders-1 {
		if p := strings.Trim(parts[i], ".:"); p != "" {
			name = p + "-" + name
		}
	}
	if array != "" {
		name += "-" + strings.Trim(strings.Map(func(r rune) rune {
			if r == '/' || r == '\\' || r == ':' {
				return '-'
			}
			return r
		}, array), "-")
	}
	return name
}

// natural compares names with the numbers in them as numbers.
func natural(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	x, y := a, b
	for x != "" && y != "" {
		if n, m := digits(x), digits(y); n > 0 && m > 0 {
			p, q := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
			if len(p) != len(q) {
				return len(p) - len(q)
			}
			if c := strings.Compare(p, q); c != 0 {
				return c
			}
			x, y = x[n:], y[m:]
			continue
		}
		if x[0] != y[0] {
			return int(x[0]) - int(y[0])
		}
		x, y = x[1:], y[1:]
	}
	if c := len(x) - len(y); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}
