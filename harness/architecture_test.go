package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// module is the path of this module, and of its root.
const module = "github.com/refocus-em/refocus/"

// house lists the rooms from the ground up, one a line: a folder, the rooms it
// imports, the other modules it imports. A room is a folder with all below it
// that are no rooms of their own. Since it imports none but rooms further up in
// this list, all arrows run one way: from what a study says over data and runs to
// reports and commands.
//
// The list is complete in both directions. An import that it lacks is one to think
// about; an import that only it has was got rid of, and goes here too.
const house = `
specs
artifacts/reference
harness/random
harness/half
harness/safetensors
harness/progress
harness/internal
harness/files               |                                          | github.com/gofrs/flock golang.org/x/sys
harness/nn                  | random
harness/dataset/outline     |
harness/dataset/imagefile   | half                                     | github.com/klauspost/compress golang.org/x/image
harness/onnx/internal       | half                                     | google.golang.org/protobuf
harness/onnx                | half nn onnx/internal                    | google.golang.org/protobuf
harness/onnx/onnxgo         | onnx/internal                            | github.com/owulveryck/onnx-go gonum.org/v1/gonum google.golang.org/protobuf gorgonia.org/tensor
harness/onnx/export         | random internal files nn dataset/imagefile onnx onnx/onnxgo
harness/backend             | nn
harness/backend/proto       |                                          | google.golang.org/grpc google.golang.org/protobuf
harness/backend/engine      | safetensors nn backend
harness/backend/plugin      | safetensors internal nn onnx backend backend/proto | github.com/hashicorp/go-hclog github.com/hashicorp/go-plugin golang.org/x/sys google.golang.org/grpc
harness/backend/host        | files backend backend/plugin             | github.com/BurntSushi/toml
harness/backend/reference   | nn backend
harness/backend/backendtest | random safetensors nn backend backend/reference
plugins/cpu                 | random half nn backend backend/engine backend/plugin | github.com/mmcloughlin/avo golang.org/x/sys
plugins/gorgonia            | random safetensors nn backend backend/engine backend/plugin | github.com/chewxy/hm github.com/ebitengine/purego golang.org/x/sys gorgonia.org/gorgonia gorgonia.org/tensor
plugins/template            | nn backend backend/engine backend/plugin
harness/hrtem               | random internal                          | github.com/mmcloughlin/avo golang.org/x/sys
harness/micrograph          | internal
harness/dataset             | random safetensors progress internal files dataset/imagefile dataset/outline hrtem micrograph | golang.org/x/image
harness/study               | specs internal nn onnx backend hrtem          | github.com/BurntSushi/toml
harness/store               | files
harness/train               | random safetensors progress files nn onnx backend dataset study store
harness/crosscheck          | random safetensors progress internal nn backend backend/reference files | gonum.org/v1/gonum
harness/reproduce           | progress internal files nn backend dataset study store train
harness/measure
harness/report/stats        | random
harness/report/plot         | internal report/stats
harness/predict             | progress internal files nn dataset/imagefile dataset/outline onnx micrograph measure report/stats report/plot | go.yaml.in/yaml/v3
harness/trained             | internal nn onnx/export backend dataset study store train reproduce
harness/audit               | random safetensors progress internal files nn backend crosscheck dataset store train reproduce
harness/adapt               | internal dataset/imagefile files hrtem micrograph nn onnx onnx/export progress backend dataset study store reproduce predict trained
harness/report              | random artifacts/reference internal files nn backend hrtem study store reproduce trained report/stats report/plot
harness/crate               | specs artifacts/reference internal files progress backend backend/plugin backend/host dataset store study reproduce trained report onnx onnx/export
harness/serve               | artifacts/reference internal files backend dataset store study reproduce predict trained report report/stats report/plot
harness/cli                 | random safetensors internal files nn onnx onnx/export backend backend/plugin backend/host backend/backendtest plugins/cpu dataset study store train crosscheck reproduce measure predict trained audit adapt report crate serve | github.com/NVIDIA/go-nvml github.com/hashicorp/go-hclog github.com/spf13/cobra github.com/spf13/pflag golang.org/x/term
harness                     | cli
harness/cmd/refocus         | cli
harness/release             | files backend/host
harness/testkit             | random safetensors files nn backend backend/plugin plugins/cpu dataset study store reproduce
plugins/internal/torchtest  | safetensors nn backend testkit
`

type room struct {
	folder  string
	imports map[string]bool // rooms and beginnings of paths of other modules, and whether something uses them
}

// rooms reads the list.
func rooms(t *testing.T) []room {
	var all []room
	above := func(name string) string {
		for _, folder := range []string{"harness/" + name, name} {
			if slices.ContainsFunc(all, func(r room) bool { return r.folder == folder }) {
				return folder
			}
		}
		t.Fatalf("%s is not a room further up in the list", name)
		return ""
	}
	for line := range strings.Lines(strings.TrimSpace(house)) {
		columns := append(strings.Split(line, "|"), "", "")
		r := room{strings.TrimSpace(columns[0]), map[string]bool{}}
		for _, name := range strings.Fields(columns[1]) {
			r.imports[above(name)] = false
		}
		for _, module := range strings.Fields(columns[2]) {
			r.imports[module] = false
		}
		all = append(all, r)
	}
	return all
}

// A room imports what the list says and nothing else, in files for every system
// and with every tag. Tests may import what they like.
func TestArchitecture(t *testing.T) {
	all := rooms(t)
	var folders []string
	for _, r := range all {
		folders = append(folders, r.folder)
	}
	root := ".."
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		at := slices.Index(folders, within(path.Dir(rel), folders))
		if at < 0 {
			t.Errorf("%s lies in no room of the list", rel)
			return nil
		}
		r := all[at]
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			inside, ours := strings.CutPrefix(p, module)
			entry := within(inside, folders)
			if !ours {
				entry = within(p, slices.Collect(maps.Keys(r.imports)))
			}
			domain, _, _ := strings.Cut(p, "/")
			if entry == r.folder || !strings.Contains(domain, ".") { // within the room, or the standard library
				continue
			}
			if _, ok := r.imports[entry]; !ok {
				t.Errorf("%s imports %s, which the list does not let %s", rel, p, r.folder)
				continue
			}
			r.imports[entry] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	arrows := 0
	for _, r := range all {
		for name, used := range r.imports {
			if !used {
				t.Errorf("%s may import %s and does not: take it from the list", r.folder, name)
			}
			if slices.Contains(folders, name) {
				arrows++
			}
		}
	}
	t.Logf("%d rooms, %d arrows", len(all), arrows)
}

// within is the longest of the names that a path equals or lies below, or "".
func within(p string, names []string) (longest string) {
	for _, name := range names {
		if (p == name || strings.HasPrefix(p, name+"/")) && len(name) > len(longest) {
			longest = name
		}
	}
	return longest
}

// Package files alone gives files their names and makes folders that stay. Other
// packages write to scratch folders at most, of os.MkdirTemp.
func TestOneWriter(t *testing.T) {
	writers := map[string]bool{"Create": true, "CreateTemp": true, "OpenFile": true, "Rename": true, "Mkdir": true, "MkdirAll": true, "Chmod": true, "Link": true, "Symlink": true}
	exempt := []string{"files", "testkit", "hrtem/abtem"} // the last makes the input of a comparison
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || slices.Contains(exempt, filepath.ToSlash(file))) {
			return fs.SkipDir
		}
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && writers[s.Sel.Name] {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "os" {
					t.Errorf("%s calls os.%s: package files writes", set.Position(n.Pos()), s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A plugin of plain loops links what go-plugin needs and no other module: not the
// libraries of tensors and graphs of other plugins, not those of the harness.
func TestTemplateLinks(t *testing.T) {
	program := peers.Program(t, "go", "the modules that a plugin links are asked of it")
	modules := func(packages ...string) map[string]bool {
		t.Helper()
		list := exec.Command(program, append([]string{"list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}"}, packages...)...)
		list.Dir = ".."
		out, err := list.Output()
		if err != nil {
			t.Fatalf("%v: %v", list, err)
		}
		found := map[string]bool{}
		for _, m := range strings.Fields(string(out)) {
			found[m] = true
		}
		return found
	}
	needed := modules("github.com/hashicorp/go-plugin")
	if len(needed) < 5 || !needed["google.golang.org/grpc"] {
		t.Fatalf("go-plugin is said to need %v", needed)
	}
	linked := modules("./plugins/template")
	for m := range linked {
		if !needed[m] && m+"/" != module {
			t.Errorf("plugins/template links %s", m)
		}
	}
	t.Logf("%d other modules, go-plugin alone %d", len(linked)-1, len(needed))
}
