// Command abtem simulates three cases and writes atoms, exit waves and images for
// compare.py, which simulates the same atoms with abTEM, an independent program:
//
//	go run ./harness/hrtem/abtem DIR && python compare.py DIR
//
// The cases are a copper particle, a CdSe particle, and a CdSe particle on carbon,
// each without thermal motion on a 512×512 grid of 0.1 Å.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
)

// testCase is what compare.py reads beside NAME.wave (complex64) and NAME.DEFOCUS
// (float32), both row by row.
type testCase struct {
	Name    string  `json:"name"`
	Cell    float64 `json:"cell"` // Å
	Grid    int     `json:"grid"`
	Output  int     `json:"output"`
	Slice   float64 `json:"slice"` // Å
	Slices  int     `json:"slices"`
	Energy  float64 `json:"energy"`       // eV
	Spread  float64 `json:"focal_spread"` // Å
	Seconds float64 `json:"seconds"`      // of one exit wave on one thread
	// Underfocus is of the images, in Å from the exit plane, by file name.
	Underfocus map[string]float64 `json:"underfocus"`
	// Atoms are atomic number, x, y and depth along the beam in Å.
	Atoms [][4]float64 `json:"atoms"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: abtem DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "abtem:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, c := range []struct {
		name, crystal string
		carbon        float64
	}{{"copper", "fcc_Cu", 0}, {"cdse", "w_CdSe", 0}, {"cdse-on-carbon", "w_CdSe", 20}} {
		config := hrtem.Reduced(c.crystal)
		config.Grid, config.Output, config.Crop = 512, 256, 256
		config.Radius = [2]float64{12, 12}
		config.Particles = [2]int{1, 1}
		config.Carbon = [2]float64{c.carbon, c.carbon}
		config.Displacement, config.Phonons, config.FocusPhonons = 0, 1, 1
		config.DefocusSign = 1
		if err := write(dir, c.name, config); err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
	}
	return nil
}

func write(dir, name string, config hrtem.Config) error {
	ctx := context.Background()
	s, err := hrtem.NewSimulator(config)
	if err != nil {
		return err
	}
	st, err := s.Structure(ctx, 1, "abtem", 0)
	if err != nil {
		return err
	}
	sp, err := s.Simulate(ctx, st)
	if err != nil {
		return err
	}
	seconds := math.Inf(1) // the least of several, as the machine may have other work
	for range 5 {
		start := time.Now()
		if _, err := s.ExitWaves(ctx, st); err != nil {
			return err
		}
		seconds = min(seconds, time.Since(start).Seconds())
	}
	t := testCase{
		Name: name, Cell: config.Cell, Grid: config.Grid, Output: config.Output,
		Slice: config.Slice, Slices: st.Info.ParticleSlices + st.Info.CarbonSlices,
		Energy: config.BeamEnergy, Spread: config.FocalSpread,
		Seconds: seconds, Underfocus: map[string]float64{},
	}
	top := float64(st.Info.ParticleSlices) * config.Slice
	for _, atoms := range [][]crystal.Atom{st.Particles, st.Film} {
		for _, a := range atoms {
			t.Atoms = append(t.Atoms, [4]float64{float64(a.Z), a.Pos[0], a.Pos[1], top - a.Pos[2]})
		}
	}
	if err := writeRaw(filepath.Join(dir, name+".wave"), sp.Waves[0]); err != nil {
		return err
	}
	image := make([]float32, config.Output*config.Output)
	for _, d := range []float64{-100, 100} {
		file := fmt.Sprintf("%s.%+g", name, d)
		if err := s.Intensity(ctx, sp, d, image); err != nil {
			return err
		}
		if err := writeRaw(filepath.Join(dir, file), image); err != nil {
			return err
		}
		t.Underfocus[file] = sp.Info.FocusOffset + d
	}
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), b, 0o666)
}

func writeRaw(path string, data any) error {
	b, err := binary.Append(nil, binary.LittleEndian, data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, b, 0o666)
}
