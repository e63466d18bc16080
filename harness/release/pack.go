package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"embed"
	"path"
	"slices"
	"strings"
	"text/template"
)

// entry is one file of an archive.
type entry struct {
	name    string
	content []byte
	program bool
	folder  bool // without content, open to all
}

func (e entry) mode() int64 {
	switch {
	case e.folder:
		return 0o1777
	case e.program:
		return 0o755
	}
	return 0o644
}

// tar packs files below a folder, in the order of their names.
func (r *release) tar(folder string, all []entry) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(z)
	for _, e := range sorted(all) {
		h := &tar.Header{Name: path.Join(folder, e.name), Mode: e.mode(), Size: int64(len(e.content)), ModTime: r.time, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
		if e.folder {
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err = z.Close()
	return b.Bytes(), err
}

// zip is tar for Windows.
func (r *release) zip(folder string, all []entry) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range sorted(all) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: path.Join(folder, e.name), Method: zip.Deflate, Modified: r.time})
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(e.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func sorted(all []entry) []entry {
	return slices.SortedFunc(slices.Values(all), func(a, b entry) int { return strings.Compare(a.name, b.name) })
}

// rootfs lays an archive's files out as the root of a container: the executables
// need nothing else but a folder for their sockets.
func rootfs(all []entry) []entry {
	out := []entry{{name: "tmp", folder: true}}
	for _, e := range all {
		if e.program || strings.HasSuffix(e.name, ".lock.toml") {
			e.name = path.Join("usr/local/bin", e.name)
		} else {
			e.name = path.Join("usr/local/share/doc/refocus", e.name)
		}
		out = append(out, e)
	}
	return out
}

//go:embed recipes
var recipes embed.FS

// recipes fills in the recipes of package managers and containers.
func (r *release) recipes(out map[string][]byte, source string) error {
	t, err := template.New("").Delims("<<", ">>").Option("missingkey=error").ParseFS(recipes, "recipes/*")
	if err != nil {
		return err
	}
	for _, t := range t.Templates() {
		var b bytes.Buffer
		err := t.Execute(&b, map[string]string{
			"Version": r.version, "Number": strings.TrimPrefix(r.version, "v"), "Commit": r.commit, "SourceSHA256": source,
		})
		if err != nil {
			return err
		}
		out[t.Name()] = b.Bytes()
	}
	return nil
}
