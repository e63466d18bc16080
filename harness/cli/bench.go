package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure how fast a backend trains or predicts"}
	cmd.AddCommand(
		benchMode("train", "Measure training steps: forward, backward and Adam", `Measures training steps of the study's U-Net, through the plugin's process and with
everything that a step of a study has: reading the samples, the protocol, forward and
backward pass, the optimiser.`),
		benchMode("predict", "Measure inference", `Measures predictions of the study's U-Net, through the plugin's process, which is sent
the images and sends back the probabilities.`))
	return cmd
}

// benchResult is what bench prints.
type benchResult struct {
	Backend    string  `json:"backend"`
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
	// Layers are the passes of a step, by --layers.
	Layers []benchLayer `json:"layers,omitempty"`
}

// benchLayer is one pass over one layer, and its share of the step.
type benchLayer struct {
	Layer  string  `json:"layer,omitempty"` // none: of the whole network
	Pass   string  `json:"pass"`
	MS     float64 `json:"ms"` // median
	Share  float64 `json:"share"`
	GFLOPS float64 `json:"gflops,omitempty"` // convolutions only
}

func benchMode(mode, short, long string) *cobra.Command {
	var c common
	var b backendFlags
	r := benchResult{Mode: mode}
	var seconds float64
	var layers bool
	var save string
	cmd := &cobra.Command{
		Use:   mode,
		Short: short,
		Long: long + `

Prints the median, the effective rate (multiply-adds of direct convolution, two
operations each) and the fused multiply-add peak of the same cores in the same run.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Size%16 != 0 || r.Size < 16 || r.Batch < 1 {
				return usagef(cmd, "size %d must be a multiple of 16 and batch %d at least 1", r.Size, r.Batch)
			}
			if r.Freeze != "" && r.Freeze != nn.Encoder && r.Freeze != nn.Decoder {
				return usagef(cmd, "--freeze takes encoder or decoder, not %q", r.Freeze)
			}
			if r.Threads == 0 {
				r.Threads = runtime.NumCPU()
			}
			if layers && b.name != "cpu" {
				return usagef(cmd, "--layers looks into the cpu backend, not %q", b.name)
			}
			g, err := nn.UNet(nn.UNetOptions{Width: r.Width, Classes: 2})
			if err != nil {
				return err
			}
			g.Initialize(1, 0)
			if save != "" {
				model, err := onnx.Marshal(g, onnx.MarshalOptions{})
				if err != nil {
					return err
				}
				if err := files.Write(save, model); err != nil {
					return err
				}
			}
			length := time.Duration(seconds * float64(time.Second))
			if err := r.measure(cmd.Context(), &b, g, length); err != nil {
				return err
			}
			if layers {
				if err := r.measureLayers(cmd.Context(), g, length); err != nil {
					return err
				}
			}
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %s, width %d, %d×%d, batch %d, %d threads%s: %.1f ms/step (median of %d), %.1f images/s, %.1f of %.1f GFLOP/s peak (%s %%), %.0f MiB\n",
				r.Backend, r.Precision, r.Width, r.Size, r.Size, r.Batch, r.Threads, frozenText(r.Freeze), r.StepMS, r.Steps, r.ImagesPerS,
				r.GFLOPS, r.PeakGFLOPS, r.ofPeak(r.GFLOPS), r.PeakRSSMiB)
			return r.printLayers(cmd.OutOrStdout())
		},
	}
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.IntVar(&r.Width, "width", 64, "base width of the U-Net")
	f.IntVar(&r.Size, "size", 64, "height and width of the images")
	f.IntVar(&r.Batch, "batch", 16, "images per step")
	f.IntVar(&r.Threads, "threads", 0, "threads (default: all cores)")
	f.StringVar(&r.Precision, "precision", backend.Float32, `"float32", "mixed" or "float64", as far as the backend has it`)
	f.Float64Var(&seconds, "seconds", 5, "how long to measure")
	if mode == "train" {
		f.StringVar(&r.Freeze, "freeze", "", `"encoder" or "decoder": a part that is not trained`)
		f.BoolVar(&layers, "layers", false, "then time every pass over every layer, in this process, as long again")
	} else {
		f.StringVar(&save, "save", "", "also write the network, untrained, to this ONNX file, for a comparison")
	}
	return cmd
}

func frozenText(group string) string {
	if group == "" {
		return ""
	}
	return ", " + group + " frozen"
}

func (r *benchResult) measure(ctx context.Context, b *backendFlags, g *nn.Graph, length time.Duration) error {
	shape := []int{r.Batch, 1, r.Size, r.Size}
	var macs int64
	var err error
	if r.Mode == "train" {
		macs, err = g.TrainingMultiplyAdds(shape, r.frozen()...)
	} else {
		macs, err = g.MultiplyAdds(shape)
	}
	if err != nil {
		return err
	}
	c, err := b.launch(ctx, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	desc, err := c.Describe(ctx)
	if err != nil {
		return err
	}
	r.Backend = desc.Name
	s, err := c.Open(ctx, g, backend.Options{Precision: r.Precision, Threads: r.Threads, Adam: backend.DefaultAdam})
	if err != nil {
		return err
	}
	defer s.Close()
	r.PeakGFLOPS = cpu.PeakGFLOPS(r.Threads)
	times, cpuTime, err := r.steps(ctx, s, c.PID(), length)
	if err != nil {
		return err
	}
	slices.Sort(times)
	step := times[len(times)/2].Seconds()
	r.Steps = len(times)
	r.StepMS = step * 1e3
	r.CPUMS = cpuTime.Seconds() * 1e3 / float64(len(times))
	r.ImagesPerS = float64(r.Batch) / step
	r.GFLOPS = 2 * float64(macs) / step / 1e9
	r.PeakRSSMiB = peakRSS(c.PID())
	return nil
}

// ofPeak is a rate in percent of the peak, which emulated multiply-adds have not.
func (r *benchResult) ofPeak(gflops float64) string {
	if r.PeakGFLOPS == 0 {
		return "–"
	}
	return strconv.FormatFloat(100*gflops/r.PeakGFLOPS, 'f', 0, 64)
}

// measureLayers fills in Layers.
func (r *benchResult) measureLayers(ctx context.Context, g *nn.Graph, length time.Duration) error {
	o := backend.Options{Precision: r.Precision, Threads: r.Threads, Adam: backend.DefaultAdam}
	rows, err := cpu.LayerTimes(ctx, g, o, r.Batch, r.Size, r.frozen(), length)
	if err != nil {
		return err
	}
	var total float64
	for _, row := range rows {
		total += row.Time.Seconds()
	}
	for _, row := range rows {
		s := row.Time.Seconds()
		l := benchLayer{Layer: row.Layer, Pass: row.Pass, MS: 1e3 * s, Share: s / total}
		if row.MultiplyAdds > 0 {
			l.GFLOPS = 2 * float64(row.MultiplyAdds) / s / 1e9
		}
		r.Layers = append(r.Layers, l)
	}
	return nil
}

// printLayers prints a line per layer, all its passes together, the passes'
// shares of peak, and a line per pass over the whole network.
func (r *benchResult) printLayers(out io.Writer) error {
	if len(r.Layers) == 0 {
		return nil
	}
	var names []string
	byLayer := map[string][]benchLayer{}
	for _, l := range r.Layers {
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
				passes[l.Pass] = r.ofPeak(l.GFLOPS)
			}
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.1f\t", name, sum, 100*share)
		if work > 0 {
			fmt.Fprintf(w, "%.1f\t%s\t", work/busy, r.ofPeak(work/busy))
		} else {
			fmt.Fprint(w, "\t\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", passes["forward"], passes["data gradient"], passes["weight gradient"])
	}
	return w.Flush()
}

func (r *benchResult) frozen() []string {
	if r.Freeze == "" {
		return nil
	}
	return []string{r.Freeze}
}

// steps times steps for the given length after two that warm up. It also returns
// the processor time that the backend's process took for them.
func (r *benchResult) steps(ctx context.Context, s backend.Session, pid int, length time.Duration) (times []time.Duration, cpuTime time.Duration, err error) {
	n := r.Batch * r.Size * r.Size
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
	if r.Mode == "predict" {
		for enough := false; !enough; enough = done() {
			if _, err := s.Predict(ctx, backend.Tensor{Shape: []int{r.Batch, 1, r.Size, r.Size}, F32: images}); err != nil {
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
		{Name: "images", Shape: []int{r.Batch, 1, r.Size, r.Size}, Data: images},
		{Name: "labels", Shape: []int{r.Batch, r.Size, r.Size}, Data: labels},
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
	batch := make(backend.Batch, r.Batch)
	for i := range batch {
		batch[i] = backend.Sample{Dataset: "bench", Index: i, Dihedral: uint8(i % 8)}
	}
	batches := make([]backend.Batch, 1<<14)
	for i := range batches {
		batches[i] = batch
	}
	last = time.Now()
	err = s.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: 1e-3, Frozen: r.frozen()}, func(backend.Step) error {
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
