package plugin

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// program is an executable whose bytes nobody can change any more: what is started is
// what was compared. On Linux it is a sealed copy in memory; elsewhere, and where
// Linux has none, a copy in a folder that only this user may enter.
type program struct {
	path   string   // under which it is started
	memory *os.File // the sealed copy, until the process runs
	// script says that an interpreter opens the copy again: the process gets it as its
	// descriptor 3, which path names.
	script bool
	folder string   // of a private copy, which goes with the process
	env    []string // for the process
}

// fileVariable tells a plugin which file it was started from, since a script's $0 is
// the copy.
const fileVariable = "REFOCUS_PLUGIN_FILE"

// verified copies the executable at path and compares the copy with the digest, a
// SHA-256 in hexadecimal. Without a digest the file is started as it is.
func verified(path, digest string) (*program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if digest == "" {
		return &program{path: path}, nil
	}
	p, got, err := seal(f)
	if err != nil {
		return nil, fmt.Errorf("copying %s, to start what was compared: %w", path, err)
	}
	if got != digest {
		p.close()
		return nil, fmt.Errorf("%s has SHA-256 %s, expected %s: the file has changed", path, got, digest)
	}
	return p, nil
}

// privateCopy copies the file into a new folder that only this user may enter.
func privateCopy(f *os.File) (*program, string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, "", err
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, "", err
	}
	folder, err := os.MkdirTemp("", Prefix) // mode 0700
	if err != nil {
		return nil, "", err
	}
	p := &program{path: filepath.Join(folder, filepath.Base(f.Name())), folder: folder}
	if err := os.WriteFile(p.path, content, 0o700); err != nil {
		p.close()
		p.end()
		return nil, "", err
	}
	p.env = scriptEnvironment(f.Name(), content)
	sum := sha256.Sum256(content)
	return p, hex.EncodeToString(sum[:]), nil
}

// close lets go of the sealed copy, which a process that runs has itself.
func (p *program) close() {
	if p.memory != nil {
		p.memory.Close()
	}
}

// end removes the private copy, once the process has ended.
func (p *program) end() {
	if p.folder != "" {
		os.RemoveAll(p.folder)
	}
}

var python = regexp.MustCompile(`^python[0-9.]*(\.exe)?$`)

// scriptEnvironment is what a copy of a script, which begins so, needs to find what the
// script at path would: its name and, of Python, the modules beside it. nil of what is
// no script.
func scriptEnvironment(path string, content []byte) []string {
	line, _, _ := bytes.Cut(content[:min(len(content), 1024)], []byte("\n"))
	words, ok := strings.CutPrefix(string(line), "#!")
	if !ok {
		return nil
	}
	env := []string{fileVariable + "=" + path}
	for _, w := range append(strings.Fields(words), secondLine(content)...) {
		if python.MatchString(filepath.Base(w)) {
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				real = path
			}
			// Python would import from the copy's folder, instead.
			return append(env, pythonFolder+filepath.Dir(real), "PYTHONSAFEPATH=1")
		}
	}
	return env
}

// secondLine is the command into which pip writes an interpreter whose path is too long
// for the first line: a line for a shell, ”'exec' /path/python "$0" "$@".
func secondLine(content []byte) []string {
	_, rest, _ := bytes.Cut(content[:min(len(content), 4096)], []byte("\n"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	command, ok := strings.CutPrefix(string(line), "'''exec' ")
	if !ok {
		return nil
	}
	return strings.Fields(strings.ReplaceAll(command, `"`, ""))
}

// pythonFolder begins a variable that withFolder puts into PYTHONPATH.
const pythonFolder = "PYTHONPATH+="

// environment adds what the program needs to a process's environment.
func (p *program) environment(env []string) []string {
	for _, v := range p.env {
		folder, ok := strings.CutPrefix(v, pythonFolder)
		if !ok {
			env = append(env, v)
			continue
		}
		path := folder
		for i := len(env) - 1; i >= 0; i-- { // the last one counts
			if others, ok := strings.CutPrefix(env[i], "PYTHONPATH="); ok {
				if others != "" {
					path += string(filepath.ListSeparator) + others
				}
				break
			}
		}
		env = append(env, "PYTHONPATH="+path)
	}
	return env
}
