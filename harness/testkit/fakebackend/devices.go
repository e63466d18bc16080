package fakebackend

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// Variables of a process that Serve makes a plugin of.
const (
	// DevicesVariable holds the names of the devices, separated by commas, or
	// Visible.
	DevicesVariable = "REFOCUS_TEST_DEVICES"
	// LoseVariable holds, separated by commas, which are lost, and at which step of
	// the process: "cuda:1@5". A step of -1 takes the device away before; "cuda:1@c5"
	// is a crash in place of a loss, and "cuda:1@0" the loss of a device that a session
	// is opened on.
	LoseVariable = "REFOCUS_TEST_LOSE"
	// HoldVariable, where it is set, names a file without which no device takes a step
	// but those that will be lost.
	HoldVariable = "REFOCUS_TEST_HOLD"
	// MemoryVariable is what each device has, in bytes.
	MemoryVariable = "REFOCUS_TEST_MEMORY"
	// OnceVariable is a folder. The process that makes the file describe there is killed in
	// Describe, the one that makes the file train hangs in its third step.
	OnceVariable = "REFOCUS_TEST_ONCE"
	// Visible makes a device cuda:0, cuda:1, … of every entry of
	// CUDA_VISIBLE_DEVICES, which is its identity, as CUDA does.
	Visible = "visible"
)

// Devices pretends that a backend has several GPUs, on which it computes what it
// does, until they are lost.
type Devices struct {
	backend.Backend
	Devices []backend.Device
	Lose    map[string]int64 // by name, at which step of this process
	Crash   bool             // in place of losses
	Hold    string           // see HoldVariable
	steps   atomic.Int64
}

// Serve makes this process a plugin called "fake", the cpu backend on devices that
// the environment names, and does not return; without them it does nothing. It is for
// a test's TestMain.
func Serve() {
	names := os.Getenv(DevicesVariable)
	if names == "" || os.Getenv("REFOCUS_BACKEND_PLUGIN") == "" {
		return
	}
	d := &Devices{Backend: cpu.New("1"), Lose: map[string]int64{}, Hold: os.Getenv(HoldVariable)}
	for entry := range strings.SplitSeq(os.Getenv(LoseVariable), ",") {
		if name, step, ok := strings.Cut(entry, "@"); ok {
			step, d.Crash = strings.CutPrefix(step, "c")
			var n int64
			fmt.Sscan(step, &n)
			d.Lose[name] = n
		}
	}
	if names == Visible {
		for i, id := range strings.Split(os.Getenv("CUDA_VISIBLE_DEVICES"), ",") {
			d.Devices = append(d.Devices, backend.Device{Name: fmt.Sprintf("cuda:%d", i), ID: "GPU-" + id})
		}
	} else {
		for name := range strings.SplitSeq(names, ",") {
			if d.Lose[name] >= 0 {
				d.Devices = append(d.Devices, backend.Device{Name: name})
			}
		}
	}
	memory := int64(1 << 30)
	fmt.Sscan(os.Getenv(MemoryVariable), &memory)
	for i := range d.Devices {
		v := &d.Devices[i]
		v.Kind, v.Info, v.Driver, v.Memory = "cuda", "an imagined GPU "+v.ID, "imagined 1.0", memory
	}
	plugin.Serve(d)
	os.Exit(0)
}

// once reports whether it is for this process to do what OnceVariable says of a method.
func once(method string) bool {
	folder := os.Getenv(OnceVariable)
	if folder == "" {
		return false
	}
	f, err := os.OpenFile(filepath.Join(folder, method), os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// Describe implements backend.Backend.
func (d *Devices) Describe(ctx context.Context) (backend.Description, error) {
	if once("describe") {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {}
	}
	a, err := d.Backend.Describe(ctx)
	a.Name, a.Devices = "fake", d.Devices
	return a, err
}

// Open implements backend.Backend.
func (d *Devices) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	name := o.Device
	if name == "" {
		name = d.Devices[0].Name
	}
	if !slices.ContainsFunc(d.Devices, func(v backend.Device) bool { return v.Name == name }) {
		return nil, fmt.Errorf("device %q: %w", name, backend.ErrUnsupported)
	}
	if step, ok := d.Lose[name]; ok && step == 0 {
		return nil, fmt.Errorf("opening %s: %w", name, backend.ErrDeviceLost)
	}
	o.Device = ""
	s, err := d.Backend.Open(ctx, g, o)
	return &onDevice{s, d, name}, err
}

// Memory implements backend.Sizer.
func (d *Devices) Memory(ctx context.Context, g *nn.Graph, o backend.Options, r backend.MemoryRequest) (int64, error) {
	o.Device = ""
	return d.Backend.(backend.Sizer).Memory(ctx, g, o, r)
}

type onDevice struct {
	backend.Session
	of   *Devices
	name string
}

func (s *onDevice) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	for s.of.Hold != "" && s.of.Lose[s.name] == 0 {
		if _, err := os.Stat(s.of.Hold); err == nil {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Session.Train(ctx, r, func(p backend.Step) error {
		n := s.of.steps.Add(1)
		if n == 3 && once("train") {
			select {}
		}
		if n == s.of.Lose[s.name] {
			if s.of.Crash {
				os.Exit(3)
			}
			return fmt.Errorf("step %d on %s: %w", n, s.name, backend.ErrDeviceLost)
		}
		return progress(p)
	})
}
