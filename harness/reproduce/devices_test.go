package reproduce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
	"github.com/refocus-em/refocus/harness/train"
)

func TestDevices(t *testing.T) {
	d := backend.Description{Name: "x", Devices: []backend.Device{
		{Name: "cuda:0", Kind: "cuda"}, {Name: "cuda:1", Kind: "cuda"}, {Name: "cpu", Kind: "cpu"},
	}}
	for asked, want := range map[string]string{
		"":                "cuda:0",
		"all":             "cuda:0, cuda:1",
		"cuda":            "cuda:0, cuda:1",
		"cpu":             "cpu",
		"cuda:1, cuda:0":  "cuda:1, cuda:0",
		"cuda:1,cpu":      "cuda:1, cpu",
		"cuda:2":          `no device "cuda:2" here; it has cuda:0, cuda:1, cpu`,
		"cuda:0,":         `no device ""`,
		"all,cuda:0":      "device cuda:0 is asked for twice",
		"cuda:0,all,mps":  "asked for twice",
		"nonsense,cuda:0": `no device "nonsense"`,
	} {
		devices, err := Devices(d, asked)
		got := DeviceNames(devices)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, want %s", asked, got, want)
		}
	}
}

func TestSlots(t *testing.T) {
	cpu, a, b := backend.Device{Name: "cpu", Kind: "cpu"}, backend.Device{Name: "a", Kind: "cuda"}, backend.Device{Name: "b", Kind: "cuda"}
	for _, c := range []struct {
		devices                         []backend.Device
		jobs, perDevice, threads, width int
		want                            string
		wantThreads                     int
	}{
		{[]backend.Device{cpu}, 0, 0, 0, 8, "cpu, cpu, cpu, cpu, cpu, cpu, cpu, cpu", 1}, // as Share says
		{[]backend.Device{cpu}, 0, 0, 0, 64, "cpu", 8},
		{[]backend.Device{cpu}, 0, 2, 0, 64, "cpu, cpu", 4},
		{[]backend.Device{a}, 0, 0, 0, 8, "a", 8}, // a GPU has one run
		{[]backend.Device{a, b}, 0, 0, 0, 8, "a, b", 4},
		{[]backend.Device{a, b}, 0, 2, 1, 64, "a, b, a, b", 1},
		{[]backend.Device{a, b}, 3, 0, 0, 64, "a, b, a", 2},
		{[]backend.Device{a, cpu}, 0, 0, 0, 64, "a, cpu", 4},
	} {
		slots, threads := Slots(c.devices, c.jobs, c.perDevice, c.threads, 8, c.width)
		if got := DeviceNames(slots); got != c.want || threads != c.wantThreads {
			t.Errorf("%+v: slots %s of %d threads", c, got, threads)
		}
	}
}

// lossy is small runs on a backend that has devices and loses some.
type lossy struct {
	devices, lose string
	launched      func(n int) string               // what the n-th process loses, instead
	until         func(fields map[string]any) bool // what a loss must be until the other devices begin
}

// train trains the runs in real processes of the backend.
func (l lossy) train(t *testing.T) ([]*Node, []Failure, *progresstest.Recorder, *store.Store, error) {
	t.Helper()
	nodes, images := small(t)
	st := openStore(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hold := ""
	told := new(progresstest.Recorder)
	if l.until != nil {
		hold = filepath.Join(t.TempDir(), "go")
		told.OnEvent = func(e progresstest.Event) {
			if e.Name == "device" && l.until(e.Fields) {
				os.WriteFile(hold, nil, 0o666)
			}
		}
	}
	var launches atomic.Int64
	o := TrainOptions{Threads: 1, Restarts: 20, Progress: told}
	o.Launch = func(ctx context.Context, _ io.Writer) (Process, error) {
		lose := l.lose
		if n := launches.Add(1); l.launched != nil {
			lose = l.launched(int(n))
		}
		return plugin.Launch(ctx, plugin.Spec{Name: "fake", Path: self, Env: []string{
			fakebackend.DevicesVariable + "=" + l.devices, fakebackend.LoseVariable + "=" + lose, fakebackend.HoldVariable + "=" + hold,
		}})
	}
	p, err := o.Launch(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for domain, im := range images { // this backend looks at the digest
		f, err := files.Describe(im.Train.Path)
		if err != nil {
			t.Fatal(err)
		}
		im.Train.SHA256, im.Validation.SHA256 = f.SHA256, f.SHA256
		images[domain] = im
	}
	o.Images = images
	for _, node := range nodes {
		node.Spec.Backend = train.Arithmetic{Name: d.Name, Numerics: d.Numerics, Precision: backend.Float32}
		if node.Parent != nil {
			node.Spec.Parent = node.Parent.Digest
		}
		if node.Digest, err = node.Spec.Digest(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Devices(d, AllDevices)
	if err != nil {
		t.Fatal(err)
	}
	o.Slots, _ = Slots(all, 0, 1, 1, 8, 4)
	failures, _, err := Train(t.Context(), st, nodes, o)
	return nodes, failures, told, st, err
}

// Devices that are lost, now and then or for good, cost time only.
func TestLostDevices(t *testing.T) {
	nodes, failures, _, st, err := lossy{devices: "cuda:0"}.train(t)
	if err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	want := results(t, st, nodes)
	every := func(map[string]any) bool { return true }
	out := func(f map[string]any) bool { return f["left_out"] == true }
	for name, c := range map[string]struct {
		lossy
		says  string
		alone bool // only cuda:0 can have trained
	}{
		"now and then": {lossy{devices: "cuda:0,cuda:1", lose: "cuda:1@6", until: every},
			"backend fake lost its device during Train", false},
		"for good": {lossy{devices: "cuda:0,cuda:1", lose: "cuda:1@1", until: out},
			"cuda:1 was lost 3 times in a row and is left out; training goes on on cuda:0", true},
		"crashes": {lossy{devices: "cuda:0,cuda:1", lose: "cuda:1@c2", until: every},
			"going on from the last checkpoint on a device that is free", false},
		"off the bus": {lossy{devices: "cuda:0,cuda:1", until: out, launched: func(n int) string {
			if n == 1 { // for its description
				return ""
			}
			return "cuda:1@-1"
		}}, "cuda:1 is not there any more, backend fake has cuda:0", true},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, failures, told, st, err := c.train(t)
			if err != nil || len(failures) > 0 {
				t.Fatal(err, failures)
			}
			if !equal(results(t, st, nodes), want) {
				t.Error("other results than on a device that was not lost")
			}
			said := strings.Join(told.Messages, "\n")
			if !strings.Contains(said, c.says) || strings.Contains(said, "left out") != c.alone {
				t.Errorf("told\n%s", said)
			}
			if p := told.Phases[0]; math.Abs(p.Done+p.Skipped-p.Total) > 1e-9 {
				t.Errorf("told of %g and %g of %g units of work", p.Done, p.Skipped, p.Total)
			}
			for _, n := range nodes {
				m, err := st.Manifest(n.Digest)
				if err != nil {
					t.Fatal(err)
				}
				on := m.Backend.Device
				if m.Backend.Driver != "imagined 1.0" || !strings.HasPrefix(on, "cuda:") || c.alone && !strings.HasPrefix(on, "cuda:0:") {
					t.Errorf("%s was trained on %q, driver %q", n.Run.ID, on, m.Backend.Driver)
				}
			}
		})
	}
}

// Where no device is left, the study ends with the reason.
func TestNoDeviceLeft(t *testing.T) {
	_, _, told, _, err := lossy{devices: "cuda:0,cuda:1", lose: "cuda:0@1,cuda:1@1"}.train(t)
	if err == nil || !strings.Contains(err.Error(), "no device is left to train on") || !strings.Contains(err.Error(), "lost 3 times in a row") {
		t.Errorf("error %v, told %q", err, told.Messages)
	}
}

// What ends all processes on a device counts once, and a checkpoint from it makes up
// for what was before.
func TestIncidents(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil) // so that nobody waits
	remain := ""
	leftOut := func(left []backend.Device) { remain = DeviceNames(left) }
	p, slots := newPool(&TrainOptions{Slots: []backend.Device{{Name: "a"}, {Name: "b"}, {Name: "a"}, {Name: "a"}}, LeftOut: leftOut}, new(progresstest.Recorder), cancel)
	a := slots[0]
	if a != slots[2] || a == slots[1] {
		t.Fatal("slots of one device do not share it")
	}
	lose := func(n *Node, seen int) error { return a.loss(ctx, n, backend.ErrDeviceLost, seen, 3, 0) }
	n := make([]*Node, 9)
	for i := range n {
		n[i] = &Node{Run: &study.Run{ID: fmt.Sprint(i)}}
	}
	for range 2 {
		seen := a.seen()
		for i := range 3 {
			if err := lose(n[i], seen); !errors.Is(err, store.ErrBusy) || a.out() {
				t.Fatalf("loss %d: %v, left out %v", i, err, a.out())
			}
		}
	}
	a.works()
	for range 2 {
		lose(n[3], a.seen())
	}
	if a.out() {
		t.Error("left out after two losses")
	}
	lose(n[4], a.seen())
	if !a.out() || slots[1].out() || remain != "b" {
		t.Errorf("not left out after three losses, or with another device; %q remain", remain)
	}
	// Crashes of one run are one incident, crashes of three runs three.
	a.works()
	crash := &backend.CrashError{Plugin: "x"}
	for i := range 6 {
		a.loss(ctx, n[5+i/2], crash, a.seen(), 9, 0)
		if a.out() != (i/2 == 2) {
			t.Errorf("crash %d: left out %v", i, a.out())
		}
	}
	// A run that loses one device after the other is at fault itself.
	if p.losses(n[3]) != 2 {
		t.Errorf("%d losses", p.losses(n[3]))
	}
	for range 2 {
		slots[1].works()
		err := slots[1].loss(ctx, n[3], backend.ErrDeviceLost, slots[1].seen(), 3, 0)
		if final := p.losses(n[3]) > 3; errors.Is(err, store.ErrBusy) == final {
			t.Errorf("loss %d: %v", p.losses(n[3]), err)
		}
	}
}
