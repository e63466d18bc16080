package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// names lists a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	f, err := Create(path, func(w io.Writer) error {
		for range 100_000 {
			if _, err := io.WriteString(w, "0123456789"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1_000_000 || f != Of("a", b) {
		t.Errorf("%d bytes, described as %+v, %v", len(b), f, err)
	}
	if again, err := Describe(path); err != nil || again != f {
		t.Errorf("described again as %+v, %v", again, err)
	}

	// A writer that fails leaves the old file and nothing else.
	broken := errors.New("broken")
	if _, err := Create(path, func(w io.Writer) error { w.Write([]byte("half")); return broken }); !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if err := f.Check(path); err != nil || names(t, dir) != "a" {
		t.Errorf("the folder holds %s, %v", names(t, dir), err)
	}
	if err := Write(filepath.Join(dir, "missing", "b"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("writing into no folder: %v", err)
	}
	if err := Write(filepath.Join(dir, strings.Repeat("x", 255)), nil); err != nil {
		t.Errorf("a name as long as can be: %v", err)
	}
}

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	f := Of("a", []byte("content"))
	var damage *Damage
	for name, c := range map[string]struct {
		content []byte // nil: no file
		says    string
	}{
		"missing": {nil, "missing"},
		"short":   {[]byte("conten"), "6 bytes"},
		"changed": {[]byte("contend"), "SHA-256"},
	} {
		os.Remove(path)
		if c.content != nil {
			if err := os.WriteFile(path, c.content, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Check(path); !errors.As(err, &damage) || !strings.Contains(damage.Problem, c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if c.content != nil && !errors.As(f.CheckBytes(path, c.content), &damage) {
			t.Errorf("%s: the bytes pass", name)
		}
	}
	if err := errors.Join(os.WriteFile(path, []byte("contend"), 0o666), f.CheckSize(path)); err != nil {
		t.Errorf("a file of the right size: %v", err)
	}
}

// Many writers of one file: all succeed, and one of their files is there whole.
func TestConcurrentWriters(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for range 25 {
				if err := Write(path, bytes.Repeat([]byte{byte('a' + w)}, 100_000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	go func() { wg.Wait(); close(stop) }()
	for reading := true; reading; {
		select {
		case <-stop:
			reading = false
		default:
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // not yet
		}
		if err != nil || len(b) != 100_000 || !bytes.Equal(b, bytes.Repeat(b[:1], 100_000)) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	if got := names(t, dir); got != "a" {
		t.Errorf("the folder holds %s", got)
	}
}

// What a dead writer left goes with the next writer of the name; what a living one is
// writing, here or on a machine whose locks nobody sees, and what belongs to others
// stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	dead, other := ".tmp-a-"+machine()+"dead", ".tmp-a-b-"+machine()+"dead"
	for _, name := range []string{dead, other, ".tmp-a-elsewhere", ".tmp-a-abandoned", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, ".tmp-a-abandoned"), yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	name := ".tmp-a-" + machine() + "living"
	living, err := OS{}.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "a"), nil); err != nil {
		t.Fatal(err)
	}
	want := []string{name, ".tmp-a-elsewhere", other, "a", "c"}
	slices.Sort(want)
	if got := names(t, dir); got != strings.Join(want, " ") {
		t.Errorf("the folder holds %s, want %s", got, want)
	}
	living.Close()
	Disk{}.Sweep(dir, ".tmp-a-")
	Disk{}.Sweep(dir, ".tmp-a-b-")
	if got, want := names(t, dir), "a c"; got != want {
		t.Errorf("the folder holds %s, want %s", got, want)
	}
}

// Of processes that make one record one makes it. Its maker notices when the name is
// another's, and disturbs nobody.
func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	var made atomic.Pointer[Record]
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			r, err := CreateRecord(path, 100, []byte("one"))
			if err == nil {
				if made.Swap(r) != nil {
					t.Error("two have made it")
				}
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := made.Load()
	defer r.Close()
	for _, text := range []string{"longer than before", "two", ""} {
		if err := r.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || len(b) != 100 || strings.TrimSpace(string(b)) != text {
			t.Errorf("it says %q, %v", b, err)
		}
	}
	if err := r.Write(make([]byte, 100)); err == nil {
		t.Error("more than there is room for was written")
	}
	if r.Replaced() {
		t.Error("it counts as replaced")
	}
	if err := Write(path, []byte("another")); err != nil {
		t.Fatal(err)
	}
	if !r.Replaced() {
		t.Error("nobody notices that it was replaced")
	}
	if err := r.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "another" {
		t.Errorf("the other file says %q, %v", b, err)
	}
	if err := os.Remove(path); err != nil || !r.Replaced() {
		t.Errorf("nobody notices that it is gone: %v", err)
	}
}

// A process knows of another on its machine that it has ended, also where nobody has
// collected it, and of one elsewhere nothing.
func TestProcess(t *testing.T) {
	self := Self()
	if self.Boot == "" {
		t.Skip("this system does not tell when a process has ended")
	}
	if self.Ended() || !self.Here() {
		t.Errorf("%+v has ended", self)
	}
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Skip(err)
	}
	p := Process{PID: child.Process.Pid, Boot: self.Boot}
	p.Start, _ = started(p.PID)
	for !p.Ended() { // a zombie, sooner or later
		time.Sleep(time.Millisecond)
	}
	if err := child.Wait(); err != nil || !p.Ended() {
		t.Errorf("it has not ended: %v", err)
	}
	again := self
	again.Start = "1" // the number is another's by now
	if !again.Ended() {
		t.Error("a process of the same number counts as the same")
	}
	p.Boot = "another kernel"
	if p.Ended() || p.Here() {
		t.Error("a process elsewhere counts as ended")
	}
}

func TestMkdirAndSetAside(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "a", "b", "c")
	for range 2 {
		if err := Mkdir(deep); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(root, "file")
	if err := Write(file, []byte("1")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below")} {
		if err := Mkdir(path); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("a folder where a file is: %v", err)
		}
	}
	aside := filepath.Join(root, "aside")
	for _, want := range []string{"file", "file-2", "file-3"} {
		if err := Write(file, []byte(want)); err != nil {
			t.Fatal(err)
		}
		path, err := Disk{}.SetAside(file, aside)
		if err != nil || path != filepath.Join(aside, want) {
			t.Errorf("set aside to %s, %v", path, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	a, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); err != ErrLocked {
		t.Errorf("taking it twice: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := WaitLock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting in vain: %v", err)
	}
	got := make(chan error)
	go func() {
		b, err := WaitLock(t.Context(), path)
		if err == nil {
			err = b.Release()
		}
		got <- err
	}()
	for range 2 {
		if err := a.Release(); err != nil {
			t.Error(err)
		}
	}
	if err := <-got; err != nil {
		t.Errorf("waiting: %v", err)
	}
	c, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed lock: %v", err)
	}
}

func ExampleCreate() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	f, err := Create(filepath.Join(dir, "greeting.txt"), func(w io.Writer) error {
		_, err := fmt.Fprintln(w, "hello")
		return err
	})
	fmt.Println(f.Name, f.Size, f.SHA256[:8], err)
	// Output: greeting.txt 6 5891b5b5 <nil>
}

// A log keeps its end, and no more than twice its size.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := NewLog(path, 1000)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log without lines: %v", err)
	}
	var all strings.Builder
	for i := range 300 {
		if i%50 == 49 {
			l.Close() // another process goes on
			l = NewLog(path, 1000)
		}
		fmt.Fprintf(io.MultiWriter(&all, l), "line %d of what was said\n", i)
	}
	l.Close()
	older, err := os.ReadFile(path + OldLog)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept := string(older) + string(newer)
	if !strings.HasSuffix(all.String(), kept) || len(kept) > 2000 || len(kept) < 1000 {
		t.Errorf("of %d bytes %d are kept:\n%s", all.Len(), len(kept), kept)
	}
	fmt.Fprint(l, strings.Repeat("x", 5000))
	l.Close()
	if b, err := os.ReadFile(path); err != nil || len(b) != 1000 {
		t.Errorf("a line that is too long leaves %d bytes, %v", len(b), err)
	}
}
