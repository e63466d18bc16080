package plugin

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// command is what Launch makes of a program.
func (p *program) command() *exec.Cmd {
	cmd := &exec.Cmd{Path: p.path, Args: []string{"x"}, Env: p.environment(os.Environ())}
	if p.script && p.memory != nil {
		cmd.ExtraFiles = []*os.File{p.memory}
	}
	return cmd
}

// While another swaps the file 1,000 times and more, by renaming and by writing into it,
// the good one is started or none.
func TestNobodySwaps(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs are a shell's")
	}
	binary := func(name, after string) []byte {
		b, err := os.ReadFile(peers.Program(t, name, "a small program stands for a plugin"))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, after...) // which an ELF file may have
	}
	for name, c := range map[string]struct {
		good, evil []byte
		copied     func(*os.File) (*program, string, error)
		rounds     int
	}{
		"script":               {[]byte("#!/bin/sh\nexit 0\n"), []byte("#!/bin/sh\nexit 3\n"), seal, 1000},
		"binary":               {binary("true", "good"), binary("false", "evil"), seal, 1000},
		"script, private copy": {[]byte("#!/bin/sh\nexit 0\n"), []byte("#!/bin/sh\nexit 3\n"), privateCopy, 100},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, Prefix+"x")
			put := func(name string, b []byte) {
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o755); err != nil {
					t.Error(err)
				}
			}
			put(Prefix+"x", c.good)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			var swaps atomic.Int64
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					content := [][]byte{c.evil, c.good}[i%2]
					if i%8 < 4 {
						put("next", content)
						if err := os.Rename(filepath.Join(dir, "next"), path); err != nil {
							t.Error(err)
						}
					} else if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
						f.WriteAt(content[:min(len(content), len(c.good))], 0)
						f.Close()
					}
					swaps.Add(1)
				}
			})
			good, refused := 0, 0
			for i := 0; i < c.rounds || swaps.Load() < int64(c.rounds); i++ {
				f, err := os.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				p, digest, err := c.copied(f)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf("%x", sha256.Sum256(c.good)); digest != want {
					refused++
					p.close()
					p.end()
					continue
				}
				if err := p.command().Run(); err != nil {
					t.Fatalf("start %d: what was started is not what was compared: %v", i, err)
				}
				good++
				p.close()
				p.end()
			}
			close(stop)
			wg.Wait()
			t.Logf("%d swaps: %d good starts, %d refused", swaps.Load(), good, refused)
		})
	}
}

// A script finds out where it is from, and a Python script the modules beside it, also
// through a link and with a path too long for a first line.
func TestScriptsFindTheirOwn(t *testing.T) {
	python := peers.Program(t, "python3", "a script in Python stands for a plugin")
	dir, elsewhere := t.TempDir(), t.TempDir()
	body := "import sys, os, beside\nprint(beside.__file__, os.environ['" + fileVariable + "'], '/' in sys.path)\n"
	for name, head := range map[string]string{
		"first":  "#!" + python + "\n",
		"second": "#!/bin/sh\n'''exec' \"" + python + "\" \"$0\" \"$@\"\n' '''\n",
		"env":    "#!/usr/bin/env python3\n",
	} {
		path := filepath.Join(dir, name)
		link := filepath.Join(elsewhere, name)
		err := errors.Join(os.WriteFile(path, []byte(head+body), 0o755), os.Symlink(path, link), os.WriteFile(filepath.Join(dir, "beside.py"), nil, 0o644))
		if err != nil {
			t.Fatal(err)
		}
		for _, copied := range []func(*os.File) (*program, string, error){seal, privateCopy} {
			f, err := os.Open(link)
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := copied(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			cmd := p.command()
			cmd.Stdout, cmd.Stderr = &said, &said
			err = cmd.Run()
			p.close()
			p.end()
			if want := fmt.Sprintln(filepath.Join(dir, "beside.py"), link, "False"); err != nil || said.String() != want {
				t.Errorf("%s: %v, said %q, want %q", name, err, &said, want)
			}
			if p.folder != "" {
				if _, err := os.Stat(p.folder); err == nil {
					t.Errorf("%s is left", p.folder)
				}
			}
		}
	}
}

// A plugin is started from a folder for temporary files whose path is long, and its
// socket lies below it.
func TestLongTemporaryFolder(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	s := socketFolder()
	defer s.close()
	if runtime.GOOS == "linux" {
		st, err := os.Stat(s.path)
		want, err2 := os.Stat(long)
		if err != nil || err2 != nil || !os.SameFile(st, want) || len(s.path) > 40 {
			t.Errorf("sockets would go to %s (%v, %v), not to %s", s.path, err, err2, long)
		}
	}
	c := launch(t, "fine")
	if _, err := c.Describe(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(long); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
