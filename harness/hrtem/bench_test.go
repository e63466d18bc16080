package hrtem

import (
	"context"
	"fmt"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

// BenchmarkSpecimen simulates whole structures on one thread and reports seconds
// for each:
//
//	go test ./harness/hrtem -run '^$' -bench Specimen/reduced -cpu 1
//	go test ./harness/hrtem -run '^$' -bench Specimen/paper -cpu 1 -benchtime 3x
func BenchmarkSpecimen(b *testing.B) {
	for _, c := range []struct {
		name   string
		preset func(string) Config
	}{{"reduced", Reduced}, {"paper", Paper}} {
		b.Run(c.name, func(b *testing.B) {
			s := newSimulator(b, c.preset("w_CdSe"))
			slices, i := 0, 0
			for b.Loop() {
				sp, err := s.Specimen(context.Background(), 1, "train", i)
				if err != nil {
					b.Fatal(err)
				}
				slices += sp.Info.ParticleSlices + sp.Info.CarbonSlices
				i++
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(i), "s/structure")
			b.ReportMetric(float64(slices)/float64(i), "slices/structure")
		})
	}
}

// BenchmarkImage images one specimen at the doses of the noise series.
func BenchmarkImage(b *testing.B) {
	for _, c := range []struct {
		name   string
		preset func(string) Config
	}{{"reduced", Reduced}, {"paper", Paper}} {
		config := c.preset("w_CdSe")
		config.Carbon = [2]float64{4, 4} // imaging costs the same for any specimen
		config.Particles = [2]int{1, 1}
		config.Phonons = 2
		s := newSimulator(b, config)
		sp, err := s.Specimen(context.Background(), 1, "train", 0)
		if err != nil {
			b.Fatal(err)
		}
		for len(sp.Waves) < c.preset("w_CdSe").Phonons {
			sp.Waves = append(sp.Waves, sp.Waves[0])
		}
		dst := make([]float32, config.Crop*config.Crop)
		for _, dose := range []float64{30, 400} {
			b.Run(fmt.Sprintf("%s/dose=%g", c.name, dose), func(b *testing.B) {
				r := random.Stream(1, "bench")
				for b.Loop() {
					if _, err := s.Image(context.Background(), sp, Conditions{Defocus: 100, DefocusStd: 15, Dose: dose}, r, dst); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
