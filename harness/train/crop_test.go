package train

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// loads notes what a session is given to train on.
type loads struct {
	backend.Backend
	digests *[]string
}

func (l loads) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	s, err := l.Backend.Open(ctx, g, o)
	return loadsSession{s, l.digests}, err
}

type loadsSession struct {
	backend.Session
	digests *[]string
}

func (s loadsSession) LoadDataset(ctx context.Context, id, path, digest string) error {
	if strings.HasPrefix(id, trainID+"x") {
		*s.digests = append(*s.digests, digest)
	}
	return s.Session.LoadDataset(ctx, id, path, digest)
}

// Patches are new every epoch and another run's are others; an interrupted run goes
// on with those that it would have had, and leaves no files behind.
func TestCrops(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, value func(i int) float32) string {
		path := filepath.Join(dir, name)
		data := make([]float32, 4*40*48)
		for i := range data {
			data[i] = value(i)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := imagefile.WriteNPY(f, []int{4, 40, 48}, data); err != nil {
			t.Fatal(err)
		}
		return path
	}
	images := write("images.npy", func(i int) float32 { return float32(i * 7919 % 1009) })
	labels := write("labels.npy", func(i int) float32 { return float32(i / 5 % 2) })
	imported, err := dataset.Import(t.Context(), dir, []string{images}, []string{labels}, dataset.ImportOptions{Crop: 32, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	j := job(t)
	set := imported.Train
	if set.Count != 3*4 {
		t.Fatalf("%d patches", set.Count)
	}
	j.Spec.Data[0] = Part{Set{"x", set.Digest, 5}, set.Count, 32}
	j.Images["x"] = Images{set, j.Images["x"].Validation}
	j.Work = t.TempDir()
	run := func(j Job, keep *memory, fault func(int64) error) (*Result, []string, error) {
		var digests []string
		r, err := Run(t.Context(), loads{&fakebackend.Backend{Fault: fault}, &digests}, j, keep, progress.None{})
		if left, _ := os.ReadDir(j.Work); len(left) > 0 {
			t.Errorf("files are left in the work folder: %v", left)
		}
		return r, digests, err
	}
	want, all, err := run(j, &memory{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sorted := slices.Sorted(slices.Values(all)); len(all) != 5 || len(slices.Compact(sorted)) != 5 {
		t.Errorf("five epochs train on %v", all)
	}
	broken := errors.New("pulled the plug")
	for stop := int64(1); stop <= 20; stop += 3 {
		keep := &memory{}
		_, first, err := run(j, keep, func(n int64) error {
			if n == stop {
				return broken
			}
			return nil
		})
		if !errors.Is(err, broken) {
			t.Fatalf("stopped at %d: %v", stop, err)
		}
		got, second, err := run(j, keep, nil)
		if err != nil {
			t.Fatal(err)
		}
		// The epoch that was interrupted is done again.
		if !slices.Equal(append(first[:len(first)-1:len(first)-1], second...), all) || first[len(first)-1] != second[0] || !reflect.DeepEqual(got.History, want.History) {
			t.Errorf("stopped at step %d: trained on %v and %v, want %v", stop, first, second, all)
		}
	}
	j.Spec.Stream = "another"
	if _, other, err := run(j, &memory{}, nil); err != nil || other[0] == all[0] {
		t.Errorf("another run trains on the same patches, %v", err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(set.Path), "whole.safetensors")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(j, &memory{}, nil); err == nil || !strings.Contains(err.Error(), "whole.safetensors") {
		t.Errorf("without the whole images: %v", err)
	}
}
