package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// asRefocus makes the test binary behave as the refocus command, so that tests
// start, kill and restart real processes.
const asRefocus = "REFOCUS_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	fakebackend.Serve()
	if os.Getenv(asRefocus) != "" {
		main()
	}
	os.Exit(m.Run())
}

// refocus prepares a process of the command.
func refocus(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asRefocus+"=1")
	return cmd
}

// output runs the command and returns what it printed and its exit code.
func output(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := refocus(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func TestPlanCounts(t *testing.T) {
	for series, want := range map[string]string{"defocus": "7200", "noise": "180", "structure": "2754", "baseline": "720"} {
		out, errs, code := output(t, "plan", series, "--profile", "paper", "--count")
		if strings.TrimSpace(out) != want || code != 0 {
			t.Errorf("%s: %q models, exit %d: %s", series, out, code, errs)
		}
	}
}

func TestPlanModel(t *testing.T) {
	out, _, code := output(t, "plan", "defocus", "--profile", "paper", "--model")
	if code != 0 || !strings.Contains(out, "14,147,650 parameters, 11,019,584 of them (77.9 %) in the encoder; 62.8 G multiply-adds") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestExitCodes(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("name = \"x\"\nkind = \"transfer\"\n[network]\nwitdh = 64\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty, nowhere := t.TempDir(), filepath.Join(t.TempDir(), "store")
	if _, err := store.Open(empty); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"plan"}, cli.ExitUsage, "a series or a file"},
		{[]string{"plan", "defocus", "--prfile", "x"}, cli.ExitUsage, "unknown flag"},
		{[]string{"plan", "defocsu"}, cli.ExitUsage, "nearest: defocus"},
		{[]string{"plan", "defocus", "--profile", "papr"}, cli.ExitUsage, "nearest: paper"},
		{[]string{"plan", "nonexistent.toml"}, cli.ExitFailed, "no such file"},
		{[]string{"report", "testdata/tiny.toml", "--out", empty}, cli.ExitFailed, "no finished model"},
		{[]string{"compare", "testdata/tiny.toml", "--out", empty}, cli.ExitFailed, "no finished model"},
		{[]string{"report", "testdata/tiny.toml", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"compare", "testdata/tiny.toml", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"status", "testdata/tiny.toml", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"data", "show", "testdata/tiny.toml", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"export", "best", "-o", "x.onnx", "--series", "testdata/tiny.toml", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"data", "show", "testdata/tiny.toml", "--out", empty}, cli.ExitFailed, "run 'refocus data' first"},
		{[]string{"crosscheck", "--backend", "nothing", "--series", "testdata/tiny.toml", "--out", t.TempDir()}, cli.ExitFailed, "no backend \"nothing\""},
		{[]string{"export", "best", "-o", "x.onnx", "--target", "nowhere", "--series", "testdata/tiny.toml", "--out", empty}, cli.ExitFailed, "has no domain \"nowhere\"; there is "},
		{[]string{"data", "export", "testdata/tiny.toml", "-o", "x", "--domain", "nowhere", "--out", empty}, cli.ExitFailed, "has no domain \"nowhere\"; there is "},
		{[]string{"data", "export", "testdata/tiny.toml", "--out", empty}, cli.ExitUsage, "which folder to write into"},
		{[]string{"data", "export", "testdata/tiny.toml", "-o", t.TempDir(), "--out", empty}, cli.ExitFailed, "run 'refocus data' first"},
		{[]string{"export", "best", "-o", "x.onnx", "--author", "somebody"}, cli.ExitUsage, "--format bioimageio"},
		{[]string{"plan", bad}, cli.ExitUsage, "bad.toml:4: network.witdh"},
		{[]string{"frobnicate"}, cli.ExitUsage, "unknown command"},
		{[]string{"help", "frobnicate"}, cli.ExitUsage, "no command \"frobnicate\""},
		{[]string{"help", "bench", "infer"}, cli.ExitUsage, "no command \"bench infer\""},
		{[]string{"verfy"}, cli.ExitUsage, "nearest: verify"},
		{[]string{"backends", "frob"}, cli.ExitUsage, "unknown command"},
		{[]string{"backends", "lst"}, cli.ExitUsage, "nearest: list"},
		{[]string{"bench", "infer"}, cli.ExitUsage, "unknown command"},
		{[]string{"plan", "defocus", "--count", "--model"}, cli.ExitUsage, "either"},
		{[]string{"reproduce", "defocus", "--jobs", "-3"}, cli.ExitUsage, `"-3" for "--jobs" flag: must be at least 0`},
		{[]string{"reproduce", "defocus", "--jobs", "2", "--jobs-per-device", "1"}, cli.ExitUsage, "give one of them"},
		{[]string{"reproduce", "defocus", "--profile", "paper", "--out", empty}, cli.ExitFailed, "is begun only with --yes"},
		{[]string{"plan", "defocus", "--rate", "fast"}, cli.ExitUsage, "must be a rate in FLOP/s"},
		{[]string{"plan", "defocus", "--rates", nowhere}, cli.ExitFailed, "no such file"},
		{[]string{"reproduce", "testdata/tiny.toml", "--devices", "cpu,cuda:7", "--out", empty}, cli.ExitFailed, "no device \"cuda:7\" here; it has cpu"},
		{[]string{"reproduce", "defocus", "--threads", "two"}, cli.ExitUsage, "must be a whole number"},
		{[]string{"data", "defocus", "--jobs=-1"}, cli.ExitUsage, "must be at least 0"},
		{[]string{"data", "show", "defocus", "--images", "0"}, cli.ExitUsage, "must be at least 1"},
		{[]string{"adapt", "m.onnx"}, cli.ExitUsage, "a model and at least one image"},
		{[]string{"adapt", "m.onnx", "i.tif"}, cli.ExitUsage, "which folder to write into"},
		{[]string{"adapt", "m.onnx", "i.tif", "-o", "x", "--learning-rate", "0"}, cli.ExitUsage, "must be above 0"},
		{[]string{"adapt", "m.onnx", "i.tif", "-o", "x", "--images", "1"}, cli.ExitUsage, "must be at least 2"},
		{[]string{"predict", "m.onnx", "i.tif", "-o", "x", "--pixel-size", "nan"}, cli.ExitUsage, "must be a number"},
		{[]string{"bench", "train", "--width", "0"}, cli.ExitUsage, "must be at least 1"},
		{[]string{"export", "best", "-o", "x", "--format", "tflite"}, cli.ExitUsage, "must be onnx or bioimageio"},
		{[]string{"crosscheck", "--factor=-1"}, cli.ExitUsage, "must be at least 0"},
		{[]string{"crosscheck", "--seeds", "9"}, cli.ExitUsage, "add --convergence"},
		{[]string{"crosscheck", "--convergence", "--seeds", "3"}, cli.ExitUsage, "fewer than 4"},
		{[]string{"crosscheck", "--convergence", "--steps", "15"}, cli.ExitUsage, "15 steps in 8 epochs"},
		{[]string{"backends", "scoreboard", "cpu"}, cli.ExitUsage, "names of two backends"},
		{[]string{"predict", "m.onnx", "a.tif", "-o", "out", "--threshold", "50"}, cli.ExitUsage, "must be above 0 and below 1"},
		{[]string{"predict", "m.onnx", "a.tif", "-o", "out", "--threshold", "0"}, cli.ExitUsage, "must be above 0 and below 1"},
		{[]string{"verify", "--out", nowhere}, cli.ExitFailed, "no store"},
		{[]string{"serve-backend", "nothing"}, cli.ExitUsage, "there is cpu"},
	} {
		_, errs, code := output(t, c.args...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: exit %d, want %d; said %q, want %q", c.args, code, c.code, errs, c.says)
		}
	}
	if _, err := os.Stat(nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a command that only reads made a store: %v", err)
	}
}

// fingerprint hashes every result in a store: runs and images, but not
// manifests, which name times and hosts.
func fingerprint(t *testing.T, root string) string {
	t.Helper()
	h := sha256.New()
	for _, part := range []string{"data", "runs"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(root, path)
			if strings.HasPrefix(rel, filepath.Join("runs", ".")) { // work and ledger
				return nil
			}
			if d.Type().IsRegular() && (part == "data" || d.Name() != "manifest.json") {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				fmt.Fprintf(h, "%s %x\n", rel, sha256.Sum256(b))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

var tinyArgs = []string{"reproduce", "testdata/tiny.toml", "--threads", "1", "--jobs", "2", "--out"}

// reproduceTiny carries out the tiny study without interruption.
func reproduceTiny(t *testing.T, extra ...string) string {
	t.Helper()
	out := t.TempDir()
	_, errs, code := output(t, append(append(tinyArgs[:len(tinyArgs):len(tinyArgs)], out), extra...)...)
	if code != 0 {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	return out
}

// However often the harness or its plugins are killed, and whenever, the same
// command ends with the same bits.
func TestKilledAtAnyMoment(t *testing.T) {
	want := fingerprint(t, reproduceTiny(t))
	rng := seed.Rand(t)
	out := t.TempDir()
	kills := 0
	for attempt := 0; ; attempt++ {
		if attempt == 200 {
			t.Fatal("not finished after 200 attempts")
		}
		cmd := refocus(append(tinyArgs[:len(tinyArgs):len(tinyArgs)], out)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// Moments from the first milliseconds to beyond the end, later ones with
		// more attempts so that the study ends.
		wait := time.Duration(rng.Float64() * float64(time.Second) * (0.3 + 0.2*float64(attempt)))
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("attempt %d: %v\n%s", attempt, err, &errs)
			}
			if got := fingerprint(t, out); got != want {
				t.Errorf("after %d kills the results differ", kills)
			}
			t.Logf("finished after %d kills", kills)
			if _, said, code := output(t, "verify", "--out", out); code != 0 {
				t.Errorf("verify: exit %d\n%s", code, said)
			}
			return
		case <-time.After(wait):
			kills++
			if plugins := backends(cmd.Process.Pid); attempt%2 == 1 && len(plugins) > 0 {
				if p, err := os.FindProcess(plugins[rng.IntN(len(plugins))]); err == nil {
					p.Kill() // the harness must cope
				}
				select {
				case <-done:
				case <-time.After(wait):
					cmd.Process.Kill()
					<-done
				}
			} else {
				cmd.Process.Kill()
				<-done
			}
		}
	}
}

// backends lists the built-in backends that pid started, not what it tries exported files
// with.
func backends(pid int) []int {
	return slices.DeleteFunc(children(pid), func(pid int) bool {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return !bytes.Contains(line, []byte("serve-backend"))
	})
}

// children lists the processes that pid started, on whichever thread, where /proc tells.
func children(pid int) []int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var out []int
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// hold keeps a study in the store out from being finished until free is called:
// it takes one of the transfer runs, as another process does that works on it. The
// store alone has the finished study.
func hold(t *testing.T, out, alone string) (free func()) {
	t.Helper()
	finished, err := store.Open(alone)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := finished.Runs()
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, digest := range digests {
		m, err := finished.Manifest(digest)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(m.ID, "transfer") {
			continue
		}
		claim, err := st.Claim(digest)
		if err != nil {
			t.Fatal(err)
		}
		free = sync.OnceFunc(func() { claim.Release() })
		t.Cleanup(free)
		return free
	}
	t.Fatal("the study has no transfer")
	return nil
}

// transcript is what a process has said so far.
type transcript struct {
	mu   sync.Mutex
	said bytes.Buffer
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

// An interrupted study stops and says how to go on. It cannot end first, for one
// of its runs is another's.
func TestInterrupt(t *testing.T) {
	out := t.TempDir()
	hold(t, out, reproduceTiny(t))
	cmd := refocus(append(tinyArgs[:len(tinyArgs):len(tinyArgs)], out)...)
	var said transcript
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for finished := []string(nil); len(finished) == 0; finished, _ = filepath.Glob(filepath.Join(out, "runs", "[0-9a-f]*")) {
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, &said)
		case <-time.After(time.Millisecond):
		}
	}
	cmd.Process.Signal(os.Interrupt)
	<-done
	if code := cmd.ProcessState.ExitCode(); code != cli.ExitInterrupted || !strings.Contains(said.String(), "goes on from the last checkpoints") {
		t.Errorf("exit %d, said\n%s", code, &said)
	}
}

func TestVerifyNamesDamage(t *testing.T) {
	out := reproduceTiny(t)
	victim := weights(t, out)[0]
	b, err := os.ReadFile(victim)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(victim, b, 0o644); err != nil {
		t.Fatal(err)
	}
	said, errs, code := output(t, "verify", "--out", out)
	if code != cli.ExitFailed || !strings.Contains(said, victim) || !strings.Contains(errs, "1 damaged") {
		t.Errorf("exit %d\n%s%s", code, said, errs)
	}
	before := len(weights(t, out))
	if said, errs, code := output(t, "verify", "--repair", "--out", out); code != 0 || !strings.Contains(errs, filepath.Join("runs", ".damaged")) {
		t.Errorf("repair: exit %d\n%s%s", code, said, errs)
	}
	if n := len(weights(t, out)); n != before-1 {
		t.Errorf("%d runs, of %d one was damaged", n, before)
	}
	if _, errs, code := output(t, append(tinyArgs[:len(tinyArgs):len(tinyArgs)], out)...); code != 0 {
		t.Errorf("making it again: exit %d\n%s", code, errs)
	}
	if said, errs, code := output(t, "verify", "--out", out); code != 0 {
		t.Errorf("repaired: exit %d\n%s%s", code, said, errs)
	}
}

// weights lists the weights of all finished runs.
func weights(t *testing.T, out string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(out, "runs", "[0-9a-f]*", "weights.safetensors"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no weights: %v", err)
	}
	return found
}

func TestStatus(t *testing.T) {
	out := reproduceTiny(t)
	said, errs, code := output(t, "status", "testdata/tiny.toml", "--json", "--out", out)
	var s struct{ Runs, Finished, Untouched int }
	if err := json.Unmarshal([]byte(said), &s); err != nil || code != 0 || s.Runs != 5 || s.Finished != 5 || s.Untouched != 0 {
		t.Errorf("exit %d, %+v, %v\n%s", code, s, err, errs)
	}
}

// The whole way of a user: reproduce, read the report, export, predict.
func TestFromSpecToPrediction(t *testing.T) {
	out := reproduceTiny(t)
	dir := filepath.Join(out, "reports", "tiny-base")
	for _, name := range []string{"index.html", "results.csv", "best.onnx", "best.onnx.certificate.json"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	// A link to click loads nothing; anything else that names an address does.
	for _, external := range regexp.MustCompile(`(<a )?[^<>]*(src|href|srcset|data)\s*=\s*["']?(http|//)|url\(\s*["']?(http|//)|@import|<(link|iframe|script[^>]* src)\b`).FindAll(page, -1) {
		if !bytes.HasPrefix(external, []byte("<a ")) {
			t.Errorf("the report loads something from elsewhere: %s", external)
		}
	}

	model := filepath.Join(t.TempDir(), "model.onnx")
	if _, errs, code := output(t, "export", "best", "--series", "testdata/tiny.toml", "--out", out, "-o", model); code != 0 {
		t.Fatalf("export: exit %d\n%s", code, errs)
	}
	exported, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "best.onnx")); err != nil || !bytes.Equal(exported, again) {
		t.Errorf("two exports of one run differ: %v", err)
	}

	images := filepath.Join(t.TempDir(), "image.npy")
	if err := os.WriteFile(images, npy("40, 56", 40*56, func(_ int, noise float64) float64 { return noise }), 0o644); err != nil {
		t.Fatal(err)
	}
	results := t.TempDir()
	_, errs, code := output(t, "predict", model, images, "-o", results)
	if code != 0 || !strings.Contains(errs, "particles") {
		t.Fatalf("predict: exit %d\n%s", code, errs)
	}
	if found, _ := filepath.Glob(filepath.Join(results, "*")); len(found) < 5 {
		t.Errorf("predict wrote %v", found)
	}
	// the package of the same model says how to use it, and gives the same
	packed := filepath.Join(t.TempDir(), "model.zip")
	if _, errs, code := output(t, "export", "best", "--series", "testdata/tiny.toml", "--out", out, "--format", "bioimageio", "-o", packed); code != 0 {
		t.Fatalf("export of a package: exit %d\n%s", code, errs)
	}
	fromPackage := t.TempDir()
	if _, errs, code := output(t, "predict", packed, images, "-o", fromPackage); code != 0 || !strings.Contains(errs, "preparation of images: standardize (as the package says)") {
		t.Fatalf("predict with a package: exit %d\n%s", code, errs)
	}
	a, errA := os.ReadFile(filepath.Join(results, "image.probability.tif"))
	b, errB := os.ReadFile(filepath.Join(fromPackage, "image.probability.tif"))
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("the package predicts something else (%v, %v)", errA, errB)
	}
	if _, errs, code := output(t, "predict", model, filepath.Join(out, "absent.npy"), "-o", results); code != cli.ExitFailed || !strings.Contains(errs, "absent.npy") {
		t.Errorf("predicting a missing image: exit %d\n%s", code, errs)
	}
}

// npy is a float32 array of n values in NumPy's format; value makes each of its
// index and of noise.
func npy(shape string, n int, value func(i int, noise float64) float64) []byte {
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape)
	head += strings.Repeat(" ", (64-(10+len(head)+1)%64)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	b = append(b, head...)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(value(i, rng.NormFloat64()))))
	}
	return b
}

func TestData(t *testing.T) {
	out := t.TempDir()
	said, errs, code := output(t, "data", "testdata/tiny.toml", "--out", out)
	if code != 0 || strings.Count(said, "ready") != 6 {
		t.Fatalf("exit %d\n%s%s", code, said, errs)
	}
	said, errs, code = output(t, "data", "testdata/tiny.toml", "--json", "--out", out)
	sets := 0
	for line := range strings.Lines(said) {
		var set struct {
			Event, Domain, Split string
			Images, Finished     int
			Ready                bool
		}
		if err := json.Unmarshal([]byte(line), &set); err != nil {
			t.Errorf("not JSON: %v: %s", err, line)
		}
		if set.Event == "set" && set.Ready && set.Finished == set.Images && set.Domain != "" {
			sets++
		}
	}
	if code != 0 || sets != 6 {
		t.Errorf("--json: exit %d, %d sets\n%s%s", code, sets, said, errs)
	}
	said, errs, code = output(t, "data", "show", "testdata/tiny.toml", "--out", out)
	if code != 0 || strings.Count(said, ".png") != 3 {
		t.Errorf("show: exit %d\n%s%s", code, said, errs)
	}

	// Without the exit waves the images are the same.
	slim := t.TempDir()
	if said, errs, code = output(t, "data", "testdata/tiny.toml", "--out", slim, "--drop-waves"); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, said, errs)
	}
	kinds := func(root string) map[string]int {
		manifests, err := filepath.Glob(filepath.Join(root, "data", "*", "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, path := range manifests {
			m, err := dataset.ReadManifest(root, filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			n[m.Kind]++
			if m.Kind == dataset.Simulated {
				n[m.Digest+" "+fmt.Sprint(m.Files)]++
			}
		}
		return n
	}
	kept, dropped := kinds(out), kinds(slim)
	if kept[dataset.Waves] == 0 || dropped[dataset.Waves] != 0 {
		t.Errorf("%d sets of exit waves, %d where they are dropped", kept[dataset.Waves], dropped[dataset.Waves])
	}
	delete(kept, dataset.Waves)
	delete(dropped, dataset.Waves)
	if !maps.Equal(kept, dropped) {
		t.Errorf("with exit waves the sets are\n%v\nwithout\n%v", kept, dropped)
	}
}

// A spec whose images are the user's own goes the same way.
func TestOwnImages(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b"} {
		for name, value := range map[string]func(i int, noise float64) float64{
			"images": func(_ int, noise float64) float64 { return noise },
			"labels": func(i int, _ float64) float64 { return float64(i / 16 % 2) },
		} {
			if err := os.WriteFile(filepath.Join(dir, d+"-"+name+".npy"), npy("6, 32, 32", 6*32*32, value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	spec := `name = "mine"
title = "Own images"
kind = "transfer"
network.width = 4
source.domain = ["a"]
target.domain = ["a", "b"]
[pretrain]
epochs = 1
images = 4
learning_rates = [1e-3]
[transfer]
epochs = 1
images = [2]
learning_rates = [1e-4]
frozen = ["none"]
[training]
batch = 8
initialisations = 1
[domain.a]
images = "a-images.npy"
labels = "a-labels.npy"
train_images = 4
validation_images = 2
[domain.b]
images = "b-images.npy"
labels = "b-labels.npy"
train_images = 4
validation_images = 2
`
	path := filepath.Join(dir, "mine.toml")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if _, errs, code := output(t, "reproduce", path, "--out", out); code != 0 {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	if err := os.Truncate(filepath.Join(dir, "b-labels.npy"), 500); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := output(t, "reproduce", path, "--out", t.TempDir()); code != cli.ExitFailed || !strings.Contains(errs, "b-labels.npy") {
		t.Errorf("truncated labels: exit %d\n%s", code, errs)
	}
}
