package predict_test

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/predict"
)

// The particles of a segmentation, and their measures.
func ExampleParticles() {
	class := []uint8{
		0, 1, 1, 0, 0, 0,
		0, 1, 1, 0, 0, 1,
		0, 0, 0, 1, 0, 0,
		0, 0, 0, 0, 0, 0,
	}
	s := &predict.Segmentation{H: 4, W: 6, Class: class, Probability: make([]float32, len(class))}
	for i, c := range class {
		s.Probability[i] = 0.1 + 0.8*float32(c)
	}
	// one pixel alone is none; pixels are of 0.5 nm
	labels, particles, _ := predict.Particles(s, predict.ParticleOptions{MinArea: 2, Height: 0.5, Width: 0.5})
	for y := range s.H {
		fmt.Println(labels[y*s.W : (y+1)*s.W])
	}
	for _, p := range particles {
		fmt.Printf("particle %d at (%.1f, %.1f): %d pixels, %.2f nm long\n", p.Label, p.Y, p.X, p.Area, p.NM.FeretMax)
	}
	// Output:
	// [0 1 1 0 0 0]
	// [0 1 1 0 0 0]
	// [0 0 0 1 0 0]
	// [0 0 0 0 0 0]
	// particle 1 at (0.8, 1.8): 5 pixels, 1.80 nm long
}
