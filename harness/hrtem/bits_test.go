package hrtem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// small is a field with everything in it, cheap enough for an emulator.
func small() Config {
	c := Reduced("w_CdSe")
	c.Cell, c.Grid, c.Output, c.Crop = 19.2, 96, 48, 32
	c.Radius, c.Particles, c.Gap, c.Carbon = [2]float64{5, 6}, [2]int{1, 1}, 2, [2]float64{5, 10}
	c.Phonons = 2
	return c
}

// digest hashes a specimen and an image of it.
func digest(t testing.TB, s *Simulator, index int) string {
	t.Helper()
	sp, err := s.Specimen(context.Background(), 7, "train", index)
	if err != nil {
		t.Fatal(err)
	}
	image := make([]float32, len(sp.Label))
	if _, err := s.Image(context.Background(), sp, Conditions{Defocus: 50, DefocusStd: 15, Dose: 900}, random.Stream(7, "test", uint64(index)), image); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, data := range []any{sp.Waves[0], sp.Waves[1], sp.Label, image} {
		if err := binary.Write(h, binary.LittleEndian, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.NewEncoder(h).Encode(sp.Info); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// The bits of a specimen are part of the data format: where this test fails because
// the physics changed on purpose, Version must be raised. The test runs on every
// architecture, and with assembly as well as without.
func TestBitsArePinned(t *testing.T) {
	const want = "43b95ed4d8ae44edb65955bc25eac414dda7411387ca6d7ecb889967b2697ef3"
	if got := digest(t, newSimulator(t, small()), 0); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

// The same bits from one and from eight threads.
func TestBitsDoNotDependOnThreads(t *testing.T) {
	s := newSimulator(t, small())
	var want, got [4]string
	for i := range want {
		want[i] = digest(t, s, i)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	var wg sync.WaitGroup
	for i := range got {
		for range 2 {
			wg.Go(func() {
				d := digest(t, s, i)
				if d != want[i] {
					t.Errorf("structure %d: digest %s with eight threads, %s with one", i, d, want[i])
				}
			})
		}
	}
	wg.Wait()
	if want[0] == want[1] {
		t.Error("two structures are the same")
	}
}

// goTool runs the go command with CGO_ENABLED=0 and the given environment.
func goTool(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	goPath := peers.Program(t, "go", "the Go toolchain")
	cmd := exec.Command(goPath, args...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// The pinned bits on arm64, emulated.
func TestBitsOnARM64(t *testing.T) {
	qemu := peers.Program(t, "qemu-aarch64-static", "Debian: qemu-user-static")
	binary := filepath.Join(t.TempDir(), "hrtem.test")
	goTool(t, []string{"GOARCH=arm64", "GOOS=linux"}, "test", "-c", "-o", binary, ".")
	out, err := exec.Command(qemu, binary, "-test.run", "^TestBitsArePinned$", "-test.v").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestBitsArePinned")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// The compiler may fuse x·y + z where the processor can, which rounds differently
// from processors that cannot. Explicit conversions forbid it; this looks for what
// they missed in the machine code of all packages here.
func TestNoFusedMultiplyAdds(t *testing.T) {
	packages := []string{".", "./carbon", "./crystal", "./fft", "./internal/kernel", "./internal/portable", "./kirkland", "./multislice", "./optics"}
	fused := regexp.MustCompile(`(\S+\.go:\d+)\).*\b(FN?M(?:ADD|SUB)[SD]|VFN?M(?:ADD|SUB)\d+S[SD])\b`)
	for _, env := range []string{"GOARCH=arm64", "GOAMD64=v3"} {
		args := append([]string{"build", "-gcflags=-S"}, packages...)
		arch := "GOARCH=amd64"
		if env == "GOARCH=arm64" {
			arch = env
		}
		var places []string
		for _, m := range fused.FindAllSubmatch(goTool(t, []string{"GOOS=linux", arch, env}, args...), -1) {
			places = append(places, filepath.Base(string(m[1]))+" "+string(m[2]))
		}
		slices.Sort(places)
		for _, p := range slices.Compact(places) {
			t.Errorf("%s: fused at %s", env, p)
		}
	}
}
