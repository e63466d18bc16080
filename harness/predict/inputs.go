package predict

import (
	"fmt"
	"path/filepath"
	"regexp"
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
		paths, kind, err := imagefile.Expand(arg)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			add(p, kind != imagefile.File)
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
	for depth := 0; depth < 32; depth++ {
		same := clashes(inputs)
		if len(same) == 0 {
			return nil
		}
		for _, i := range slices.Concat(same...) {
			inputs[i].Name = baseName(inputs[i].Path, depth, true)
		}
	}
	same := clashes(inputs)
	switch {
	case len(same) == 0:
		return nil
	case len(same[0]) == 1:
		return fmt.Errorf("%s would be written under the name of the results over all images: rename it", inputs[same[0][0]].Path)
	}
	return fmt.Errorf("%s and %s would be written under the same name", inputs[same[0][0]].Path, inputs[same[0][1]].Path)
}

// pageName is the name of the results of a stack's image.
func pageName(name string, i, n int) string {
	return fmt.Sprintf("%s-%0*d", name, max(4, len(fmt.Sprint(n-1))), i)
}

var pageNumber = regexp.MustCompile(`-[0-9]{4,}$`)

// clashes lists the inputs whose results might overwrite each other's: those of
// one name, one named like an image of another, which may be a stack, and one named
// like the results over all images.
func clashes(inputs []Input) (list [][]int) {
	first := map[string]int{}
	for i, in := range inputs {
		name := strings.ToLower(in.Name)
		if j, ok := first[name]; ok {
			list = append(list, []int{j, i})
			continue
		}
		first[name] = i
		if name == overAll {
			list = append(list, []int{i})
		}
	}
	for i, in := range inputs {
		name := strings.ToLower(in.Name)
		stack := pageNumber.ReplaceAllString(name, "")
		if j, ok := first[stack]; ok && stack != name {
			list = append(list, []int{j, i})
		}
	}
	return list
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
