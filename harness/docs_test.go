package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// CONTRIBUTING.md lists the environment variables that the project's files name,
// and no others.
func TestVariablesAreDocumented(t *testing.T) {
	name := regexp.MustCompile(`REFOCUS_[A-Z_]*[A-Z]`)
	page, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, v := range name.FindAllString(string(page), -1) {
		listed[v] = false
	}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "dist", "node_modules", "runs", "data"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		ext := filepath.Ext(path)
		if !slices.Contains([]string{".go", ".sh", ".py", ".cc", ".java", ".sbatch", ".html", ".js"}, ext) && d.Name() != "run" && d.Name() != "Justfile" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, v := range name.FindAll(text, -1) {
			v := string(v)
			if strings.HasPrefix(v, "REFOCUS_TEST") {
				continue
			}
			if _, ok := listed[v]; !ok {
				t.Errorf("%s names %s, which CONTRIBUTING.md does not list", path, v)
			}
			listed[v] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for v, used := range listed {
		if !used && !strings.HasPrefix(v, "REFOCUS_TEST") {
			t.Errorf("CONTRIBUTING.md lists %s, which no file names", v)
		}
	}
}
