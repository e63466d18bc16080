package plugin

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// behaviour selects what the test binary does when it runs as a plugin.
const behaviour = "REFOCUS_TEST_BEHAVIOUR"

func TestMain(m *testing.M) {
	switch b := os.Getenv(behaviour); b {
	case "":
		os.Exit(m.Run())
	case "version 7":
		serve(&fake{}, 7)
	case "version 0 of another language": // does not look at what the harness offers
		fmt.Println("1|0|unix|/nowhere|grpc|")
		time.Sleep(time.Minute)
	case "no plugin":
		fmt.Println("hello, I am something else")
		time.Sleep(time.Minute)
	case "dies at once":
		fmt.Fprintln(os.Stderr, "libnothing.so.1: cannot open shared object file")
		os.Exit(127)
	case "loses its device at once":
		fmt.Fprintln(os.Stderr, "the driver does not answer")
		os.Exit(backend.ExitDeviceLost)
	case "no TLS":
		os.Unsetenv(clientCertVariable)
		Serve(&fake{})
	case "never speaks":
		time.Sleep(time.Minute)
	case "host":
		hostForTest()
	default:
		Serve(&fake{behaviour: b})
	}
}

// fake is a backend without arithmetic: it answers with the right shapes, or
// misbehaves in the way it is named after.
type fake struct{ behaviour string }

func (f *fake) Describe(context.Context) (backend.Description, error) {
	d := backend.Description{
		Name: "fake", Version: "1.2.3", Numerics: "fake-1", Determinism: backend.DeterminismMachine,
		Devices:    []backend.Device{{Name: "cpu", Kind: "cpu", Info: "imaginary", ID: "abacus", Driver: "hand 1.0", Memory: 5 << 30}},
		Precisions: []string{backend.Float32}, Losses: []string{backend.LossOnProbabilities},
		Operators: []backend.Operator{{Type: "Conv", Device: "cpu", Note: "any"}}, Notes: []string{"answers are made up"},
	}
	if f.behaviour == "no numerics" {
		d.Numerics = ""
	}
	return d, nil
}

func (f *fake) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	if f.behaviour == "refuses" {
		return nil, fmt.Errorf("node %q (%s): group 3: %w", g.Nodes[2].Name, g.Nodes[2].Op, backend.ErrUnsupported)
	}
	if f.behaviour == "huge error" {
		return nil, errors.New("start " + strings.Repeat("x", 1<<20))
	}
	s := &fakeSession{f: f, g: g, o: o, sets: map[string][]int{}}
	if f.behaviour == "refuses later" {
		return refusing{s}, nil
	}
	return s, nil
}

type fakeSession struct {
	f     *fake
	g     *nn.Graph
	o     backend.Options
	sets  map[string][]int
	state []byte
}

func (s *fakeSession) is(behaviour string) bool { return s.f.behaviour == behaviour }

func (s *fakeSession) LoadDataset(_ context.Context, id, path, digest string) error {
	shape, err := imagesShape(path)
	if err != nil {
		return err
	}
	s.sets[id] = shape
	return nil
}

func (s *fakeSession) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	for i, b := range r.Batches {
		loss := float64(i)
		for _, x := range b {
			if s.sets[x.Dataset] == nil {
				return fmt.Errorf("batch %d: dataset %q was not loaded", i, x.Dataset)
			}
			loss += float64(x.Index)*1000 + float64(x.Dihedral)*100
		}
		step := backend.Step{Batch: i, Loss: 1 + loss*r.LearningRate}
		if i == 2 {
			switch s.f.behaviour {
			case "crashes":
				hclog.Default().Error("out of imaginary memory", "wanted", 12)
				panic("this is the end")
			case "loses its device":
				return fmt.Errorf("kernel 7: %w: illegal memory access", backend.ErrDeviceLost)
			case "exits":
				log.Print("[WARN] I have had enough")
				os.Exit(3)
			case "children":
				c := exec.Command("sleep", "1000")
				c.Stderr = os.NewFile(2, "stderr") // keeps the harness's end busy
				if err := c.Start(); err != nil {
					return err
				}
				step.LossScale = float64(c.Process.Pid)
			case "stalls":
				time.Sleep(time.Hour)
			case "NaN loss":
				step.Loss = math.NaN()
			case "low loss":
				step.Loss = 0.3
			case "skips a batch":
				continue
			case "stops early":
				return nil
			}
		}
		if err := progress(step); err != nil {
			return err
		}
		if s.is("waits") && i == 2 {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	return nil
}

func (s *fakeSession) Evaluate(_ context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	shape := s.sets[r.Dataset]
	if shape == nil {
		return backend.Evaluation{}, fmt.Errorf("dataset %q was not loaded", r.Dataset)
	}
	if len(r.Indices) == 0 {
		for i := range shape[0] {
			r.Indices = append(r.Indices, i)
		}
	}
	e := backend.Evaluation{Classes: 2}
	for _, i := range r.Indices {
		e.Loss = append(e.Loss, float64(1+i))
		c := []int64{int64(shape[2]*shape[3] - i), int64(i), 0, 0}
		if s.is("loses pixels") {
			c[1] = 0
		}
		e.Confusion = append(e.Confusion, c)
	}
	if s.is("low evaluation") {
		e.Loss[1] = 0.3
	}
	if s.is("short evaluation") {
		e.Loss, e.Confusion = e.Loss[1:], e.Confusion[1:]
	}
	return e, nil
}

func (s *fakeSession) Predict(_ context.Context, images backend.Tensor) (backend.Tensor, error) {
	shapes, err := s.g.Shapes(images.Shape)
	if err != nil {
		return backend.Tensor{}, err
	}
	t := zeros(shapes[s.g.Output.Name])
	for i := range t.F32 {
		t.F32[i] = images.F32[i%len(images.F32)]
	}
	switch s.f.behaviour {
	case "infinite prediction":
		t.F32[1] = float32(math.Inf(1))
	case "flat prediction":
		t.Shape = []int{len(t.F32)}
	}
	return t, nil
}

func zeros(shape []int) backend.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return backend.Tensor{Shape: shape, F32: make([]float32, n)}
}

func (s *fakeSession) Gradients(_ context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	var ts []backend.NamedTensor
	for _, p := range s.g.Parameters() {
		if len(frozen) == 0 || nn.Group(p.Name) != frozen[0] || s.is("thawed gradient") {
			ts = append(ts, backend.NamedTensor{Name: p.Name, Tensor: zeros(p.Shape)})
		}
	}
	return 0.5, ts, nil
}

func (s *fakeSession) Activations(_ context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	in := append([]int{len(b)}, s.sets[b[0].Dataset][1:]...)
	shapes, err := s.g.Shapes(in)
	if err != nil {
		return nil, err
	}
	var ts []backend.NamedTensor
	for _, n := range names {
		t := zeros(shapes[n])
		if s.is("wrong activation") {
			t = zeros([]int{1})
		}
		ts = append(ts, backend.NamedTensor{Name: n, Tensor: t})
	}
	return ts, nil
}

func (s *fakeSession) State(context.Context) ([]byte, error) {
	if s.state != nil {
		return s.state, nil
	}
	var ts []safetensors.Tensor
	for _, t := range s.g.Tensors {
		if t.Role != nn.Constant {
			ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: t.Data})
		}
	}
	if s.is("incomplete state") {
		ts = ts[1:]
	}
	state, err := safetensors.Encode(ts, map[string]string{"step": "0"})
	if s.is("truncated state") {
		state = state[:len(state)-4]
	}
	return state, err
}

func (s *fakeSession) SetState(_ context.Context, state []byte) error {
	if err := CheckState(s.g, state); err != nil {
		return err
	}
	s.state = state
	return nil
}

func (s *fakeSession) Close() error { return nil }

// refusing is a session that finds out too late what it does not support.
type refusing struct{ *fakeSession }

// errLater holds the refusal two levels deep and beside another error.
var errLater = fmt.Errorf("after all: %w", errors.Join(errors.New("a pity"), fmt.Errorf("node \"head\" (Conv): %w", backend.ErrUnsupported)))

func (refusing) Train(context.Context, backend.TrainRequest, func(backend.Step) error) error {
	return errLater
}

func (refusing) Evaluate(context.Context, backend.EvaluateRequest) (backend.Evaluation, error) {
	return backend.Evaluation{}, errLater
}

func (refusing) Predict(context.Context, backend.Tensor) (backend.Tensor, error) {
	return backend.Tensor{}, errLater
}

func (refusing) Gradients(context.Context, backend.Batch, []string) (float64, []backend.NamedTensor, error) {
	return 0, nil, errLater
}

func (refusing) Activations(context.Context, backend.Batch, []string, bool) ([]backend.NamedTensor, error) {
	return nil, errLater
}

func (refusing) State(context.Context) ([]byte, error)  { return nil, errLater }
func (refusing) SetState(context.Context, []byte) error { return errLater }

// launch starts the test binary as a plugin with the given behaviour.
func launch(t *testing.T, b string, change ...func(*Spec)) *Client {
	t.Helper()
	c, err := launchContext(t.Context(), t, b, change...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func launchContext(ctx context.Context, t *testing.T, b string, change ...func(*Spec)) (*Client, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Name: "fake", Path: exe, Env: []string{behaviour + "=" + b}, StartTimeout: 20 * time.Second}
	for _, f := range change {
		f(&spec)
	}
	c, err := Launch(ctx, spec)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func network() *nn.Graph {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	g.Initialize(1, 0)
	return g
}

// open starts a session with a loaded dataset "a" of n images of 16×32.
func open(t *testing.T, b backend.Backend, n int) backend.Session {
	t.Helper()
	s, err := b.Open(t.Context(), network(), backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.LoadDataset(t.Context(), "a", datasetFile(t, n), strings.Repeat("0", 64)); err != nil {
		t.Fatal(err)
	}
	return s
}

func datasetFile(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "set.safetensors")
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, 16, 32}, Data: make([]float32, n*512)},
		{Name: "labels", Shape: []int{n, 16, 32}, Data: make([]uint8, n*512)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// startChild makes the plugin start a process of its own.
func startChild(s backend.Session) (pid int, err error) {
	err = s.Train(context.Background(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 4)}, func(p backend.Step) error {
		pid = max(pid, int(p.LossScale))
		return nil
	})
	return pid, err
}

// hostForTest is a harness that starts a plugin and waits to be killed.
func hostForTest() {
	exe, _ := os.Executable()
	c, err := Launch(context.Background(), Spec{Name: "fake", Path: exe, Env: []string{behaviour + "=children"}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	s, err := c.Open(context.Background(), network(), backend.Options{})
	if err == nil {
		err = s.LoadDataset(context.Background(), "a", os.Getenv("REFOCUS_TEST_DATASET"), "")
	}
	child := 0
	if err == nil {
		child, err = startChild(s)
	}
	fmt.Println(c.PID(), child, err)
	time.Sleep(time.Minute)
}
