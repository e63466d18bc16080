package dataset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/files"
)

// Sets lists the digests of all sets below the artifacts folder, for verification:
// also of those that are unfinished, or of which little is left.
func Sets(root string) ([]string, error) {
	entries, err := os.ReadDir(dataDir(root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var digests []string
	for _, e := range entries {
		if _, err := setDir(root, e.Name()); err == nil {
			digests = append(digests, e.Name())
		}
	}
	return digests, nil
}

// Bytes is what the named set takes on disk.
func Bytes(root, digest string) int64 { return diskUse(filepath.Join(dataDir(root), digest)) }

// Verify re-hashes every file of the named set and returns what is wrong: files that
// are damaged, missing, or of no use. A set that is still being made, by a process that
// lives or by the next 'refocus data', is as it should be. read is told of what was
// read, in bytes.
func Verify(ctx context.Context, root, digest string, read func(bytes int64)) []files.Damage {
	dir, err := setDir(root, digest)
	if err != nil {
		return []files.Damage{{Path: filepath.Join(dataDir(root), digest), Problem: err.Error()}}
	}
	v := &verification{dir: dir, read: read}
	entries, err := os.ReadDir(dir) // through a link, where it is one
	if errors.Is(err, fs.ErrNotExist) {
		problem := "there is no such set"
		if _, err := os.Lstat(dir); err == nil {
			problem = "it is a link to nothing"
		}
		v.add("", problem)
		return v.bad
	}
	if err != nil {
		v.add("", bare(err).Error())
		return v.bad
	}
	m, err := ReadManifest(root, digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !begun(entries) {
			v.add("", "it has files and no manifest: it was not finished, or the manifest was lost")
		}
		return v.bad
	case err != nil:
		v.note(manifestFile, err)
		return v.bad
	}
	listed := map[string]bool{manifestFile: true}
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		if ctx.Err() != nil {
			return v.bad
		}
		listed[filepath.Base(name)] = true
		v.check(filepath.Base(name), m.Files[name])
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return v.bad
		}
		name := e.Name()
		structure, isEntry := strings.CutSuffix(name, ".json")
		switch {
		case listed[name] || temporary(name):
		case m.Kind == Waves && isEntry:
			var s specimenEntry
			if err := readJSON(filepath.Join(dir, name), &s); err != nil {
				v.note(name, err)
				continue
			}
			v.check(structure+".safetensors", s.Waves)
		case m.Kind == Waves && strings.HasSuffix(name, ".safetensors"):
			if _, err := os.Stat(filepath.Join(dir, strings.TrimSuffix(name, ".safetensors")+".json")); err != nil {
				v.add(name, "half there: nothing describes these exit waves")
			}
		default:
			v.add(name, "the manifest does not list it")
		}
	}
	return v.bad
}

// temporary reports whether a file of this name comes and goes while sets are made.
func temporary(name string) bool {
	return name == "parts" || files.Temporary(name) || strings.HasPrefix(name, ".claim-")
}

// begun reports whether a folder without a manifest is of a set that is being made.
func begun(entries []fs.DirEntry) bool {
	parts := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "parts" })
	return parts || !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !temporary(e.Name()) })
}

type verification struct {
	dir  string
	read func(int64)
	bad  []files.Damage
}

func (v *verification) add(name, problem string) {
	v.bad = append(v.bad, files.Damage{Path: filepath.Join(v.dir, name), Problem: problem})
}

// note adds what an error says of a file.
func (v *verification) note(name string, err error) {
	var damage *files.Damage
	if errors.As(err, &damage) {
		v.add(name, damage.Problem)
	} else {
		v.add(name, bare(err).Error())
	}
}

func (v *verification) check(name string, c content) {
	if err := c.file(name).Check(filepath.Join(v.dir, name)); err != nil {
		v.note(name, err)
	}
	v.read(c.Bytes)
}

// bare drops the path from an error that is told with it.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Repair takes what is damaged of a set out of the way, to be made again, and says
// what it did: of exit waves the structures that are damaged, of images the set.
func Repair(ctx context.Context, root, digest string, damaged []files.Damage) (did []string, err error) {
	lock, err := lockDamaged(ctx, root)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	disk := files.Disk{}
	m, err := ReadManifest(root, digest)
	if err != nil || m.Kind != Waves {
		path, err := setAside(disk, root, digest)
		if err != nil {
			return nil, err
		}
		return []string{"set aside as " + path + ", to be made again"}, nil
	}
	gone := map[string]bool{}
	for _, d := range damaged {
		name := filepath.Base(d.Path)
		structure := strings.TrimSuffix(strings.TrimSuffix(name, ".json"), ".safetensors")
		remove := []string{name}
		if structure != name {
			remove = []string{structure + ".json", structure + ".safetensors"} // in this order: where the entry stands they stand
		}
		for _, name := range remove {
			path := filepath.Join(filepath.Dir(d.Path), name)
			if gone[path] {
				continue
			}
			gone[path] = true
			if err := disk.Remove(path); err == nil {
				did = append(did, "removed "+path)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return did, fmt.Errorf("removing what is damaged: %w", err)
			}
		}
	}
	return did, nil
}
