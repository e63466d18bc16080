package backend_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
)

// What a backend lacks it refuses, naming the node; whoever asked can tell a
// refusal from a failure.
func Example_unsupported() {
	group := 3
	err := fmt.Errorf("node %q (%s): group %d: %w", "encoder.init.conv", "Conv", group, backend.ErrUnsupported)
	fmt.Println(err)
	fmt.Println(errors.Is(err, backend.ErrUnsupported))
	// Output:
	// node "encoder.init.conv" (Conv): group 3: not supported by this backend
	// true
}

// A dataset's image is stored once. What a sample shows of it is read through
// Dihedral: here the image
//
//	1 2
//	3 4
//
// under all eight symmetries.
func ExampleDihedral() {
	image := [2][2]int{{1, 2}, {3, 4}}
	for op := range uint8(8) {
		for y := range 2 {
			for x := range 2 {
				oy, ox := backend.Dihedral(op, 2, y, x)
				fmt.Print(image[oy][ox], " ")
			}
		}
		fmt.Println("under symmetry", op)
	}
	// Output:
	// 1 2 3 4 under symmetry 0
	// 2 4 1 3 under symmetry 1
	// 4 3 2 1 under symmetry 2
	// 3 1 4 2 under symmetry 3
	// 1 3 2 4 under symmetry 4
	// 3 4 1 2 under symmetry 5
	// 4 2 3 1 under symmetry 6
	// 2 1 4 3 under symmetry 7
}

func ExampleEvaluation() {
	e := backend.Evaluation{
		Classes: 2,
		Loss:    []float64{0.4, 0.6},
		Confusion: [][]int64{ // background as background and as particle; particle as background and as particle
			{90, 2, 3, 5},
			{80, 5, 0, 15},
		},
	}
	fmt.Printf("loss %.1f, dice %.2f\n", e.MeanLoss(), e.Dice())
	// Output:
	// loss 0.5, dice 0.80
}

func ExampleOptions_WithDefaults() {
	o := backend.Options{Device: "cuda:0"}.WithDefaults()
	fmt.Println(o.Precision, o.Loss, o.Device, o.Adam)
	// Output:
	// float32 cross-entropy-on-probabilities cuda:0 {0.9 0.999 1e-08}
}

func ExampleTensor_Check() {
	t := backend.Tensor{Shape: []int{1, 2, 2}, F32: []float32{1, 2, 3}}
	fmt.Println(t.Check())
	// Output:
	// 3 values do not fill shape [1 2 2]
}

func ExampleHangError() {
	var err error = &backend.HangError{
		Plugin: "mine", During: "Train", After: 30 * time.Minute,
		LastWords: backend.LastWords{"step 17", "waiting for the device"},
	}
	var hang *backend.HangError
	if errors.As(err, &hang) {
		fmt.Println(err)
	}
	// Output:
	// backend mine hung: nothing came from Train for 30m0s; its last words:
	// 	step 17
	// 	waiting for the device
}
