package imagefile_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
)

// A focal series of two images of 2×3 pixels of 0.25 Å as a TIFF file, and its
// way back.
func Example() {
	folder, err := os.MkdirTemp("", "images-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "series.tif")
	f, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	err = imagefile.WriteTIFF(f, 2, 3, 0.25, []float32{1, 2, 3, 4, 5, 6}, []float32{0.5, 0.25, 0, 0, 0, -1})
	if err != nil {
		panic(err)
	}
	if err := f.Close(); err != nil {
		panic(err)
	}

	s, err := imagefile.Open(path)
	if err != nil {
		panic(err)
	}
	defer s.Close()
	fmt.Printf("%s of %d images of %d×%d pixels of %g Å\n", s.Format, s.N, s.H, s.W, s.Info(0).Pixel.X)
	image := make([]float32, s.H*s.W)
	for i := range s.N {
		if err := s.At(i, image); err != nil {
			panic(err)
		}
		fmt.Println(filepath.Base(s.Name(i)), image)
	}
	// Output:
	// TIFF of 2 images of 2×3 pixels of 0.25 Å
	// series.tif [1 2 3 4 5 6]
	// series.tif [0.5 0.25 0 0 0 -1]
}

// One file may hold several arrays: the path then names one.
func ExampleSplitPath() {
	for _, path := range []string{"stack.emd:/data/images/data", "C:stack.tif"} {
		file, array := imagefile.SplitPath(path)
		fmt.Printf("file %q, array %q\n", file, array)
	}
	// Output:
	// file "stack.emd", array "/data/images/data"
	// file "C:stack.tif", array ""
}
