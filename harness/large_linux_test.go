package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// large is the design of the defocus series at paper scale, 14,400 runs, with as many
// epochs, domains and validation images, and the smallest images and network.
const large = `name  = "large"
title = "As many runs as the paper's defocus series"
kind  = "transfer"
seed  = 1
keep  = "best"

[network]
width = 4

[grid]
crystal           = ["w_CdSe"]
defocus           = [-250, -200, -150, -100, -50, 0, 50, 100, 150, 200, 250]
dose              = [400.0]
train_images      = 8
validation_images = 128

[source]
defocus = [-100, -50, 0, 50, 100]

[pretrain]
epochs         = 10
images         = 8
learning_rates = [1e-3, 1e-4]

[transfer]
epochs         = 10
images         = [2, 4, 6, 8]
learning_rates = [1e-4, 1e-5]
frozen         = ["none", "encoder", "decoder"]

[training]
batch           = 8
initialisations = 3

[simulation]
cell          = 25.6
grid          = 128
output        = 64
crop          = 32
radius        = [5.0, 6.0]
particles     = [1, 1]
gap           = 4.0
carbon        = [4.0, 8.0]
phonons       = 1
focus_phonons = 1
`

// invented writes a finished run that nobody has trained, as a run of its spec could be.
func invented(st *store.Store, n *reproduce.Node, weights bool) error {
	rng := rand.New(rand.NewPCG(1, uint64(len(n.Run.ID))<<32+uint64(n.Run.ID[0])+uint64(n.Digest[0])<<8+uint64(n.Digest[1])<<16+uint64(n.Digest[2])<<24))
	s := n.Spec
	h := store.History{Stage: s.Stage, Target: s.Target}
	rate := s.LearningRate
	perImage := map[string][]float64{} // losses, epoch by epoch
	least := backend.LeastLoss(s.Loss, s.Network.Classes)
	level := 0.02 + 0.02*rng.Float64()
	for epoch := range s.Epochs {
		e := store.Epoch{LearningRate: rate, TrainLoss: least + level*math.Exp(-float64(epoch)/3), Validation: map[string]store.Score{}}
		rate *= s.Decay
		for i, d := range s.Validation {
			losses := make([]float64, d.Images)
			for k := range losses {
				losses[k] = least + level*(1+math.Exp(-float64(epoch)/3)+0.1*float64(i))*(0.9+0.2*rng.Float64())
			}
			perImage[d.Name] = append(perImage[d.Name], losses...)
			e.Validation[d.Name] = store.Score{Loss: backend.Evaluation{Loss: losses}.MeanLoss(), Dice: 0.9 - level}
		}
		h.Epochs = append(h.Epochs, e)
		if h.Best == 0 || e.Validation[s.Target].Loss < h.Epochs[h.Best-1].Validation[s.Target].Loss {
			h.Best = epoch + 1
		}
	}
	var ts []safetensors.Tensor
	for _, d := range s.Validation {
		ts = append(ts, safetensors.Tensor{Name: d.Name, Shape: []int{s.Epochs, d.Images}, Data: perImage[d.Name]})
	}
	losses, err := safetensors.Encode(ts, nil)
	if err != nil {
		return err
	}
	history, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		return err
	}
	g, err := s.Graph(nil)
	if err != nil {
		return err
	}
	ts = nil
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: t.Data})
		}
	}
	w, err := safetensors.Encode(ts, nil)
	if err != nil {
		return err
	}
	spec, err := json.Marshal(s)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	m := store.Manifest{
		Format: store.ManifestFormat, Digest: n.Digest, ID: n.Run.ID, Study: "large/base", Spec: spec,
		Files:   []files.File{files.Of(store.HistoryFile, history), files.Of(store.LossesFile, losses), files.Of(store.WeightsFile, w)},
		Backend: store.Backend{Name: s.Backend.Name, Numerics: s.Backend.Numerics, Determinism: backend.DeterminismMachine, Device: "cpu", Precision: s.Backend.Precision, Threads: 1},
		Host:    store.Host{Name: "nowhere", OS: "linux/amd64", CPU: "2 cores"}, Started: now, Finished: now, TrainSeconds: 100, EvaluateSeconds: 10,
	}
	manifest, err := files.SealJSON(m)
	if err != nil {
		return err
	}
	attempt, err := json.MarshalIndent(store.Attempt{
		Format: 1, Digest: n.Digest, Number: 1, ID: n.Run.ID, Study: "large/base", Process: files.Process{Host: "nowhere", PID: 1},
		Started: now, Heard: now, Ended: now, Outcome: store.OutcomeFinished, Total: s.Work(), Done: s.Work(), Kept: s.Work(),
	}, "", "  ")
	if err != nil {
		return err
	}
	dir, ledger := st.RunDir(n.Digest), filepath.Dir(st.LogPath(n.Digest, 1))
	contents := map[string][]byte{
		filepath.Join(dir, store.HistoryFile): history, filepath.Join(dir, store.LossesFile): losses, filepath.Join(dir, store.ManifestFile): manifest,
		filepath.Join(ledger, "1.json"): attempt,
	}
	contents[filepath.Join(dir, store.WeightsFile+".dropped")] = []byte("{}\n") // says nothing beside the weights
	if weights {
		contents[filepath.Join(dir, store.WeightsFile)] = w
	}
	for _, d := range []string{dir, ledger} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
	}
	for path, b := range contents {
		if err := os.WriteFile(path, b, 0o666); err != nil {
			return err
		}
	}
	return nil
}

// inventLarge makes the store of the study at spec, of whose weights, which are random,
// those of the best model of every target are there.
func inventLarge(t *testing.T, spec, root string) {
	t.Helper()
	p, err := study.Load(spec, "")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := cpu.New("test").Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := reproduce.Resolve(t.Context(), st, p, desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Generate(t.Context(), dataset.Options{}); err != nil {
		t.Fatal(err)
	}
	next := make(chan *reproduce.Node)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range next {
				if err := invented(st, n, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, n := range r.Nodes {
		next <- n
	}
	close(next)
	wg.Wait()
	for i := range p.Domains {
		best, err := reproduce.Best(st, r.Nodes, p.Domains[i].Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := invented(st, best, true); err != nil {
			t.Fatal(err)
		}
	}
}

// What a person with 14,400 runs calls, with the time and the memory that it takes.
func TestLargeStore(t *testing.T) {
	dir := os.Getenv("REFOCUS_LARGE")
	if dir == "" {
		t.Skip("minutes, and 4 GB of a disk: with REFOCUS_LARGE=FOLDER, whose store stays")
	}
	spec, root := filepath.Join(dir, "large.toml"), filepath.Join(dir, "artifacts")
	done := filepath.Join(dir, "made")
	if _, err := os.Stat(done); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.WriteFile(spec, []byte(large), 0o666)); err != nil {
			t.Fatal(err)
		}
		inventLarge(t, spec, root)
		if err := os.WriteFile(done, nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want string // of what is printed
	}{
		{[]string{"status", spec}, "14400 of 14400 runs finished"},
		{[]string{"report", spec, "-o", t.TempDir()}, "best model: "},
		{[]string{"verify"}, "14400 runs are whole"},
		{[]string{"gc", spec}, "there is nothing to remove"},
	} {
		cmd := refocus(append(c.args, "--out", root)...)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start)
		if err != nil || !strings.Contains(said.String(), c.want) {
			t.Errorf("refocus %s: %v\n%s", strings.Join(c.args, " "), err, &said)
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)^(\w+) +([\d,.]+)/([\d,.]+) `).FindAllStringSubmatch(said.String(), -1) {
			if m[2] != m[3] {
				t.Errorf("refocus %s: the phase %s ends at %s of %s", c.args[0], m[1], m[2], m[3])
			}
		}
		use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		t.Logf("%-8s %6.2f s, %6.2f s of processors, %4d MB", c.args[0], took.Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), use.Maxrss>>10)
	}
}
