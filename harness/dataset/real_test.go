package dataset

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// smallSources is real physics on a field of 2.56 nm: some tens of milliseconds a
// structure.
func smallSources() []Source {
	c := hrtem.Reduced("w_CdSe")
	c.Cell, c.Grid, c.Output, c.Crop = 25.6, 128, 64, 48
	c.Radius, c.Particles, c.Carbon, c.Phonons, c.FocusPhonons = [2]float64{5, 7}, [2]int{1, 1}, [2]float64{5, 10}, 2, 1
	var sources []Source
	for _, split := range []string{Train, Validation} {
		for _, defocus := range []float64{-100, 0, 150} {
			sources = append(sources, Source{c, hrtem.Conditions{Defocus: defocus, DefocusStd: 15, Dose: 400}, 3, split, 4})
		}
	}
	return sources
}

func TestRealSimulation(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	ready, err := Generate(t.Context(), a, smallSources(), Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Generate(t.Context(), b, smallSources(), Options{Workers: 3}); err != nil {
		t.Fatal(err)
	}
	sameContents(t, contents(t, b), contents(t, a))

	// Exit waves that were read back give the image that fresh ones give.
	s := smallSources()[1]
	sim, err := hrtem.NewSimulator(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := sim.Specimen(t.Context(), s.Seed, s.Split, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float32, s.Config.Crop*s.Config.Crop)
	defocus, err := sim.Image(t.Context(), sp, s.Conditions, random.Stream(s.Seed, "image "+digestOf(s.imaging()), 2), want)
	if err != nil {
		t.Fatal(err)
	}
	images, err := ready[1].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	got, label := make([]float32, len(want)), make([]uint8, len(want))
	if err := images.Image(2, got); err != nil {
		t.Fatal(err)
	}
	if err := images.Label(2, label); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] || label[i] != sp.Label[i] {
			t.Fatalf("pixel %d is %v of class %d, want %v of class %d", i, got[i], label[i], want[i], sp.Label[i])
		}
	}
	m, err := ReadManifest(a, ready[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if m.Images[2].Defocus != defocus || m.Images[2].Structure.FocusOffset != sp.Info.FocusOffset {
		t.Errorf("manifest says %+v", m.Images[2])
	}
	for _, r := range ready {
		if err := damageOf(a, r.Digest); err != nil {
			t.Error(err)
		}
		im, err := r.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		for i := range r.Count {
			if err := im.Image(i, got); err != nil {
				t.Fatal(err)
			}
			var sum, squares float64
			for _, v := range got {
				sum += float64(v)
				squares += float64(v) * float64(v)
			}
			n := float64(len(got))
			if math.Abs(sum/n) > 1e-5 || math.Abs(squares/n-1) > 1e-5 { // float32 pixels
				t.Errorf("image %d: mean %g, mean square %g", i, sum/n, squares/n)
			}
		}
	}
}

// BenchmarkGenerate makes the data of a small defocus series at the reduced scale:
// structures per second of wall time, then the same with the exit waves there,
// which is what other conditions cost.
func BenchmarkGenerate(b *testing.B) {
	const structures = 8
	series := func(dose float64) (sources []Source) {
		for d := -250.0; d <= 250; d += 50 {
			sources = append(sources, Source{hrtem.Reduced("w_CdSe"), hrtem.Conditions{Defocus: d, DefocusStd: 15, Dose: dose}, 1, Train, structures})
		}
		return sources
	}
	var simulated, imaged time.Duration
	for b.Loop() {
		root := b.TempDir()
		for i, dose := range []float64{400, 300} {
			start := time.Now()
			if _, err := Generate(b.Context(), root, series(dose), Options{}); err != nil {
				b.Fatal(err)
			}
			*[]*time.Duration{&simulated, &imaged}[i] += time.Since(start)
		}
	}
	n := float64(structures * b.N)
	b.ReportMetric(n/simulated.Seconds(), "structures/s")
	b.ReportMetric(11*n/imaged.Seconds(), "images/s")
}

// childEnv tells this test binary to generate and die.
const childEnv = "REFOCUS_TEST_GENERATE"

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if _, err := Generate(context.Background(), root, smallSources(), Options{Workers: 2}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Killed at any moment, again and again, the generation ends with the same bytes
// and without a trace of the deaths.
func TestKill(t *testing.T) {
	want := t.TempDir()
	if _, err := Generate(t.Context(), want, smallSources(), Options{}); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	rng := seed.Rand(t)
	kills := 0
	for try := 0; ; try++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+root)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		patience := 20*time.Second + time.Duration(rng.Int64N(int64(time.Millisecond)))
		if try < 12 {
			patience = 5*time.Millisecond + time.Duration(rng.Int64N(int64(120*time.Millisecond)))
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if kills == 0 {
				t.Log("it was done before it was killed once")
			}
			got := contents(t, root)
			for name := range got {
				// A file that a dead writer had begun goes when the file of that name
				// is written again, which a set that was finished otherwise never is.
				if base := filepath.Base(name); len(base) > 5 && base[:5] == ".tmp-" {
					delete(got, name)
				}
			}
			sameContents(t, got, contents(t, want))
			t.Logf("killed %d times", kills)
			return
		case <-time.After(patience):
			cmd.Process.Kill()
			<-done
			kills++
		}
	}
}
