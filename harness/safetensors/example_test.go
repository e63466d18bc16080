package safetensors_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/safetensors"
)

// A dataset as a backend gets it: images [N,C,H,W] and labels [N,H,W]. One
// image is read without the others.
func Example_dataset() {
	folder, err := os.MkdirTemp("", "dataset-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "data.safetensors")
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{3, 1, 2, 2}, Data: []float32{0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23}},
		{Name: "labels", Shape: []int{3, 2, 2}, Data: []uint8{0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1}},
	}, nil)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(path, data, 0o666); err != nil {
		panic(err)
	}

	f, err := safetensors.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	images, ok := f.Info("images")
	if !ok || images.DType != safetensors.F32 || len(images.Shape) != 4 {
		panic("no images")
	}
	pixels := images.Len() / images.Shape[0]
	image, label := make([]float32, pixels), make([]uint8, pixels)
	const index = 1
	if err := f.ReadFloat32("images", index*pixels, image); err != nil {
		panic(err)
	}
	if err := f.ReadUint8("labels", index*pixels, label); err != nil {
		panic(err)
	}
	fmt.Println(images.Shape, image, label)
	// Output:
	// [3 1 2 2] [10 11 12 13] [0 0 1 1]
}

// A session's state: tensors by name, and metadata.
func ExampleDecode() {
	state, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "decoder.head.weight", Shape: []int{2, 4, 1, 1}, Data: make([]float32, 8)},
		{Name: "decoder.head.bias", Shape: []int{2}, Data: []float32{0.5, -0.5}},
	}, map[string]string{"step": "120"})
	if err != nil {
		panic(err)
	}

	f, err := safetensors.Decode(state)
	if err != nil {
		panic(err)
	}
	for _, t := range f.Tensors() {
		fmt.Println(t.Name, t.DType, t.Shape)
	}
	bias, err := f.Float32("decoder.head.bias")
	fmt.Println(bias, err, "after step", f.Metadata["step"])
	_, err = f.Float32("decoder.head.scale")
	fmt.Println(err)
	// Output:
	// decoder.head.weight F32 [2 4 1 1]
	// decoder.head.bias F32 [2]
	// [0.5 -0.5] <nil> after step 120
	// no tensor "decoder.head.scale"
}
