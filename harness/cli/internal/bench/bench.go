// Package bench measures how fast a backend trains or predicts, against the
// fused multiply-add peak of the same cores in the same run.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// Modes of a Measurement.
const (
	Train   = "train"
	Predict = "predict"
)

// Measurement is what to measure, a network and batches of some size, and how fast
// it was.
type Measurement struct {
	Backend    string  `json:"backend"`
	Device     string  `json:"device"` // "": the backend's first
	Mode       string  `json:"mode"`
	Precision  string  `json:"precision"`
	Width      int     `json:"width"`
	Size       int     `json:"size"`
	Batch      int     `json:"batch"`
	Threads    int     `json:"threads"`
	Freeze     string  `json:"freeze,omitempty"`
	Steps      int     `json:"steps"`
	StepMS     float64 `json:"step_ms"`          // median
	CPUMS      float64 `json:"cpu_ms,omitempty"` // of all threads, mean: what a busy machine does not disturb
	ImagesPerS float64 `json:"images_per_s"`
	GFLOPS     float64 `json:"gflops"`      // as if every convolution were computed directly
	PeakGFLOPS float64 `json:"peak_gflops"` // of fused multiply-adds on as many threads, measured in this run
	PeakRSSMiB float64 `json:"peak_rss_mib"`
	// SessionMiB is what the backend tells beforehand of the session's memory, 0 where
	// it does not.
	SessionMiB float64 `json:"session_mib,omitempty"`
	// Layers are the passes of a step, by --layers.
	Layers []Layer `json:"layers,omitempty"`
}

// Layer is one pass over one layer, and its share of the step.
type Layer struct {
	Layer  string  `json:"layer,omitempty"` // none: of the whole network
	Pass   string  `json:"pass"`
	MS     float64 `json:"ms"` // median
	Share  float64 `json:"share"`
	GFLOPS float64 `json:"gflops,omitempty"` // convolutions only
}

func frozenText(group string) string {
	if group == "" {
		return ""
	}
	return ", " + group + " frozen"
}

// Process is a backend in a process of its own.
type Process interface {
	backend.Backend
	PID() int
}

// Network is the network that is measured, untrained.
func (m *Measurement) Network() (*nn.Graph, error) {
	g, err := nn.UNet(nn.UNetOptions{Width: m.Width, Classes: 2})
	if err == nil {
		g.Initialize(1, 0)
	}
	return g, err
}

// Measure measures for about the given length, three steps at least.
func (m *Measurement) Measure(ctx context.Context, c Process, g *nn.Graph, length time.Duration) error {
	shape := []int{m.Batch, 1, m.Size, m.Size}
	var macs int64
	var err error
	if m.Mode == Train {
		macs, err = g.TrainingMultiplyAdds(shape, m.frozen()...)
	} else {
		macs, err = g.MultiplyAdds(shape)
	}
	if err != nil {
		return err
	}
	desc, err := c.Describe(ctx)
	if err != nil {
		return err
	}
	m.Backend = desc.Name
	if m.Device == "" {
		m.Device = desc.Devices[0].Name
	}
	o := backend.Options{Precision: m.Precision, Device: m.Device, Threads: m.Threads, Adam: backend.DefaultAdam}
	if sizer, ok := c.(backend.Sizer); ok {
		n, err := sizer.Memory(ctx, g, o, backend.MemoryRequest{Batch: m.Batch, Height: m.Size, Width: m.Size, Training: m.Mode == Train})
		if err != nil && !errors.Is(err, backend.ErrUnsupported) {
			return err
		}
		m.SessionMiB = float64(n) / (1 << 20)
	}
	s, err := c.Open(ctx, g, o)
	if err != nil {
		return err
	}
	defer s.Close()
	m.PeakGFLOPS = cpu.PeakGFLOPS(m.Threads)
	times, cpuTime, err := m.steps(ctx, s, c.PID(), length)
	if err != nil {
		return err
	}
	slices.Sort(times)
	step := times[len(times)/2].Seconds()
	m.Steps = len(times)
	m.StepMS = step * 1e3
	m.CPUMS = cpuTime.Seconds() * 1e3 / float64(len(times))
	m.ImagesPerS = float64(m.Batch) / step
	m.GFLOPS = 2 * float64(macs) / step / 1e9
	m.PeakRSSMiB = peakRSS(c.PID())
	return nil
}

// ofPeak is a rate in percent of the peak, which emulated multiply-adds have not.
func (m *Measurement) ofPeak(gflops float64) string {
	if m.PeakGFLOPS == 0 {
		return format.None
	}
	return strconv.FormatFloat(100*gflops/m.PeakGFLOPS, 'f', 0, 64)
}

// MeasureLayers fills in Layers, with the cpu backend in this process.
func (m *Measurement) MeasureLayers(ctx context.Context, g *nn.Graph, length time.Duration) error {
	o := backend.Options{Precision: m.Precision, Threads: m.Threads, Adam: backend.DefaultAdam}
	rows, err := cpu.LayerTimes(ctx, g, o, m.Batch, m.Size, m.frozen(), length)
	if err != nil {
		return err
	}
	var total float64
	for _, row := range rows {
		total += row.Time.Seconds()
	}
	for _, row := range rows {
		s := row.Time.Seconds()
		l := Layer{Layer: row.Layer, Pass: row.Pass, MS: 1e3 * s, Share: s / total}
		if row.MultiplyAdds > 0 {
			l.GFLOPS = 2 * float64(row.MultiplyAdds) / s / 1e9
		}
		m.Layers = append(m.Layers, l)
	}
	return nil
}

// Print prints a line and, where there are Layers, a line per layer, all its
// passes together, the passes' shares of peak, and a line per pass over the whole
// network.
func (m *Measurement) Print(out io.Writer) error {
	told := ""
	if m.SessionMiB > 0 {
		told = ", of which a session " + format.Bytes(int64(m.SessionMiB*(1<<20)))
	}
	_, err := fmt.Fprintf(out, "%s on %s, %s, width %d, %s, batch %d, %d threads%s: %.1f ms/step (median of %d), %.1f images/s, %.1f of %.1f GFLOP/s peak (%s %%), %s%s\n",
		m.Backend, m.Device, m.Precision, m.Width, format.Size(m.Size, m.Size), m.Batch, m.Threads, frozenText(m.Freeze), m.StepMS, m.Steps, m.ImagesPerS,
		m.GFLOPS, m.PeakGFLOPS, m.ofPeak(m.GFLOPS), format.Bytes(int64(m.PeakRSSMiB*(1<<20))), told)
	if len(m.Layers) == 0 {
		return err
	}
	var names []string
	byLayer := map[string][]Layer{}
	for _, l := range m.Layers {
		name := l.Layer
		if name == "" {
			name = "(" + l.Pass + ")"
		}
		if byLayer[name] == nil {
			names = append(names, name)
		}
		byLayer[name] = append(byLayer[name], l)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "layer\tms\t% of step\tGFLOP/s\t% of peak:\tforward\tdata gradient\tweight gradient\t")
	for _, name := range names {
		var sum, share, work, busy float64
		passes := map[string]string{}
		for _, l := range byLayer[name] {
			sum += l.MS
			share += l.Share
			if l.GFLOPS > 0 {
				work += l.GFLOPS * l.MS
				busy += l.MS
				passes[l.Pass] = m.ofPeak(l.GFLOPS)
			}
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.1f\t", name, sum, 100*share)
		if work > 0 {
			fmt.Fprintf(w, "%.1f\t%s\t", work/busy, m.ofPeak(work/busy))
		} else {
			fmt.Fprint(w, "\t\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", passes["forward"], passes["data gradient"], passes["weight gradient"])
	}
	return w.Flush()
}

func (m *Measurement) frozen() []string {
	if m.Freeze == "" {
		return nil
	}
	return []string{m.Freeze}
}

// steps times steps for the given length after two that warm up. It also returns
// the processor time that the backend's process took for them.
func (m *Measurement) steps(ctx context.Context, s backend.Session, pid int, length time.Duration) (times []time.Duration, cpuTime time.Duration, err error) {
	n := m.Batch * m.Size * m.Size
	images, labels := make([]float32, n), make([]uint8, n)
	rng := random.Stream(1, "bench")
	for i := range images {
		images[i] = float32(rng.NormFloat64())
		labels[i] = uint8(rng.IntN(2))
	}
	const warmUp = 2
	deadline := time.Now().Add(length)
	last := time.Now()
	// done counts a step and reports whether they are enough.
	done := func() bool {
		now := time.Now()
		times = append(times, now.Sub(last))
		if len(times) == warmUp {
			cpuTime = processTime(pid)
		}
		last = now
		return len(times) >= warmUp+3 && now.After(deadline)
	}
	if m.Mode == Predict {
		for enough := false; !enough; enough = done() {
			if _, err := s.Predict(ctx, backend.Tensor{Shape: []int{m.Batch, 1, m.Size, m.Size}, F32: images}); err != nil {
				return nil, 0, err
			}
		}
		return times[warmUp:], processTime(pid) - cpuTime, nil
	}
	dir, err := os.MkdirTemp("", "refocus-bench-")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "set.safetensors")
	set, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{m.Batch, 1, m.Size, m.Size}, Data: images},
		{Name: "labels", Shape: []int{m.Batch, m.Size, m.Size}, Data: labels},
	}, nil)
	if err != nil {
		return nil, 0, err
	}
	if err := files.Write(path, set); err != nil {
		return nil, 0, err
	}
	if err := s.LoadDataset(ctx, "bench", path, files.Sum(set)); err != nil {
		return nil, 0, err
	}
	batch := make(backend.Batch, m.Batch)
	for i := range batch {
		batch[i] = backend.Sample{Dataset: "bench", Index: i, Dihedral: uint8(i % 8)}
	}
	batches := make([]backend.Batch, 1<<14)
	for i := range batches {
		batches[i] = batch
	}
	last = time.Now()
	err = s.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: 1e-3, Frozen: m.frozen()}, func(backend.Step) error {
		if done() {
			cpuTime = processTime(pid) - cpuTime
			return errEnough
		}
		return nil
	})
	if err == nil {
		err = fmt.Errorf("%d steps took less than %v", len(times), length)
	}
	if !errors.Is(err, errEnough) {
		return nil, 0, err
	}
	return times[warmUp:], cpuTime, nil
}

var errEnough = errors.New("measured enough")

// peakRSS is a process's largest resident size in MiB, or 0 where /proc does not
// tell.
func peakRSS(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	var kib float64
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	return 0
}

// processTime is the processor time a process has taken, to a hundredth of a
// second, or 0 where /proc does not tell.
func processTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Fields 14 and 15; the second, the program's name, may hold anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
