package train

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// What a run stores of single images is what its history has the means of.
func TestLossesOfImages(t *testing.T) {
	j := job(t)
	r, err := Run(context.Background(), &fakebackend.Backend{}, j, &memory{}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := decodeLosses(r.Losses)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Spec.checkLosses(l, &r.History); err != nil {
		t.Fatal(err)
	}
	x := l["x"][4]
	if x[0] == x[1] {
		t.Fatalf("the fake backend tells images not apart: %v", x)
	}
	// An oracle of its own: the mean, written down.
	if got, want := (x[0]+x[1]+x[2])/3, r.History.Epochs[4].Validation["x"].Loss; got != want {
		t.Errorf("the images' mean is %v, the history has %v", got, want)
	}
	for want, harm := range map[string]func(l losses){
		"it is of 1 domains, not 2":                    func(l losses) { delete(l, "y") },
		"it has no y":                                  func(l losses) { l["z"] = l["y"]; delete(l, "y") },
		"of y it has 4 epochs of 3 images, not 5 of 3": func(l losses) { l["y"] = l["y"][:4] },
		"of x it has 5 epochs of 2 images":             func(l losses) { l["x"] = [][]float64{{1, 2}, nil, nil, nil, nil} },
		"the mean loss on x after epoch 5 is":          func(l losses) { l["x"][4][0] += 1e-9 },
	} {
		l, err := decodeLosses(r.Losses)
		if err != nil {
			t.Fatal(err)
		}
		harm(l)
		if err := j.Spec.checkLosses(l, &r.History); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A backend that tells of another number of images than there are ends the run.
func TestLossesOfOtherImages(t *testing.T) {
	_, err := Run(context.Background(), forgetful{&fakebackend.Backend{}}, job(t), &memory{}, progress.None{})
	if want := "2 losses of the 3 images"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// forgetful is a backend that leaves an image out.
type forgetful struct{ backend.Backend }

func (f forgetful) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	s, err := f.Backend.Open(ctx, g, o)
	return forgetfulSession{s}, err
}

type forgetfulSession struct{ backend.Session }

func (f forgetfulSession) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	e, err := f.Session.Evaluate(ctx, r)
	if err == nil {
		e.Loss, e.Confusion = e.Loss[1:], e.Confusion[1:]
	}
	return e, err
}

// A run that goes on from a checkpoint of an earlier version, which has no losses of
// single images, ends without, and with the same weights; a run without is read as one.
func TestLossesOfEarlierCheckpoint(t *testing.T) {
	j := job(t)
	want, err := Run(context.Background(), &fakebackend.Backend{}, j, &memory{}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	keep := &memory{}
	broken := errors.New("pulled the plug")
	stop := &fakebackend.Backend{Fault: func(n int64) error {
		if n == 10 {
			return broken
		}
		return nil
	}}
	if _, err := Run(context.Background(), stop, j, keep, progress.None{}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	f, err := safetensors.Decode(keep.b)
	if err != nil {
		t.Fatal(err)
	}
	part := func(name string) []byte {
		i, ok := f.Info(name)
		if !ok {
			t.Fatalf("the checkpoint has no %s", name)
		}
		b := make([]byte, i.Len())
		if err := f.ReadUint8(name, 0, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	state, best, meta := part("state"), part("best"), f.Metadata
	part("losses")
	covered := [][]byte{state, best, []byte(meta["history"]), []byte(meta["seconds"])}
	if e, ok := meta["epoch"]; ok {
		covered = append(covered, []byte(e))
	}
	meta["sha256"] = checksum(covered...)
	keep.b, err = safetensors.Encode([]safetensors.Tensor{
		{Name: "state", Shape: []int{len(state)}, Data: state}, {Name: "best", Shape: []int{len(best)}, Data: best},
	}, meta)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Run(context.Background(), &fakebackend.Backend{}, j, keep, progress.None{})
	if err != nil || len(keep.damaged) > 0 {
		t.Fatal(err, keep.damaged)
	}
	if got.Losses != nil || string(got.Weights) != string(want.Weights) {
		t.Errorf("%d bytes of losses, and the same weights: %t", len(got.Losses), string(got.Weights) == string(want.Weights))
	}
}
