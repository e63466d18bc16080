// Package tiny has the smallest study, reproduced in the process of a test.
package tiny

import (
	"context"
	"io"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// process is the cpu backend in this process, which nothing ends.
type process struct{ backend.Backend }

func (process) Close() error { return nil }

// Launch pretends to start a process of the cpu backend.
func Launch(context.Context) (reproduce.Process, error) { return process{cpu.New("test")}, nil }

// Resolved is the study of a spec in an empty store.
func Resolved(t testing.TB, spec string) *reproduce.Resolved {
	t.Helper()
	p, err := study.Load(spec, "")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Launch(t.Context())
	desc, err := b.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := reproduce.Resolve(t.Context(), st, p, desc)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Reproduced is the study of a spec in a store that holds all of it but a report.
func Reproduced(t testing.TB, spec string) *reproduce.Resolved {
	t.Helper()
	r := Resolved(t, spec)
	images, err := r.Generate(t.Context(), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	launch := func(ctx context.Context, _ io.Writer) (reproduce.Process, error) { return Launch(ctx) }
	failures, _, err := r.Train(t.Context(), reproduce.TrainOptions{Launch: launch, Jobs: 2, Threads: 1, Harness: "test", Images: images})
	if err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	return r
}
