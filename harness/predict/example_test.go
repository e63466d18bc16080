package predict_test

import (
	"fmt"
	"os"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/predict"
)

// The particles of a segmentation, and the table of them that is written beside a
// micrograph.
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
	labels, particles := predict.Particles(s, 2) // one pixel alone is none
	for y := range s.H {
		fmt.Println(labels[y*s.W : (y+1)*s.W])
	}
	if err := predict.WriteCSV(os.Stdout, particles, []string{"background", "particle"}, imagefile.Calibration{X: 0.5, Y: 0.5, Origin: "MRC header"}); err != nil {
		panic(err)
	}
	// Output:
	// [0 1 1 0 0 0]
	// [0 1 1 0 0 0]
	// [0 0 0 1 0 0]
	// [0 0 0 0 0 0]
	// label,class,area_px,area_nm2,equivalent_diameter_nm,centre_y_px,centre_x_px,top_px,left_px,bottom_px,right_px,mean_probability,touches_border,pixel_x_nm,pixel_y_nm,pixel_size_origin
	// 1,particle,5,0.0125,0.126157,0.8,1.8,0,1,3,4,0.9,true,0.05,0.05,MRC header
}
