package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// The snippets of the README find what the backend finds, in an image as it was
// recorded whose sizes are no multiples of 16.
func TestRecipes(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if _, err := Write(ctx, filepath.Join(dir, "model.onnx"), model(t), Options{Predict: predict, Consumers: without.Consumers}); err != nil {
		t.Fatal(err)
	}
	const h, w = 70, 100
	x := synthetic([]int{1, 1, h, w})
	raw := make([]float32, len(x.Data))
	for i, v := range x.Data {
		raw[i] = 1000 + 50*v
	}
	var tiff bytes.Buffer
	if err := imagefile.WriteTIFF(&tiff, h, w, 0.2, raw); err != nil {
		t.Fatal(err)
	}
	var floats bytes.Buffer
	binary.Write(&floats, binary.LittleEndian, raw) // a buffer does not fail
	for name, b := range map[string][]byte{"image.tif": tiff.Bytes(), "raw": floats.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	zipped := filepath.Join(dir, "model.zip")
	if _, err := Write(ctx, zipped, model(t), Options{Format: BioImageIO, Predict: predict, Consumers: without.Consumers}); err != nil {
		t.Fatal(err)
	}
	for name, data := range unzip(t, zipped) {
		if name == torchWeights || name == torchSource {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	padded := Tensor{[]int{1, 1, 80, 112}, make([]float32, 80*112)}
	for i := range padded.Data {
		padded.Data[i] = x.Data[pixels.Mirror(i/112, h)*w+pixels.Mirror(i%112, w)]
	}
	// What standardises in the network sees the padding, the function's lines do not.
	whole := Tensor{padded.Shape, slices.Clone(padded.Data)}
	standardize(whole.Data, 112)
	var wants [2][]byte
	for i, x := range []Tensor{whole, padded} {
		y, err := predict(ctx, model(t).Graph, x)
		if err != nil {
			t.Fatal(err)
		}
		for r := range h {
			for c := range w {
				v := byte(0)
				if y.Data[80*112+r*112+c] > 0.5 {
					v = 1
				}
				wants[i] = append(wants[i], v)
			}
		}
		if n := bytes.Count(wants[i], []byte{1}); n < h*w/50 || n > h*w*9/10 {
			t.Fatalf("%d of %d pixels are particle, which shows little", n, h*w)
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippets := regexp.MustCompile("(?s)```python\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(snippets) != 4 {
		t.Fatalf("%d snippets", len(snippets))
	}
	for i, s := range snippets {
		name := []string{"ONNX Runtime", "OpenCV", "function", "PyTorch"}[i]
		t.Run(name, func(t *testing.T) {
			code, want := string(s[1]), wants[min(1, i/2)]
			var modules []string
			for _, m := range []string{"numpy", "onnxruntime", "tifffile", "cv2", "torch"} {
				if strings.Contains(code, m) {
					modules = append(modules, m)
				}
			}
			end := "mask = probability > 0.5\n"
			image := "image = np.frombuffer(open('raw', 'rb').read(), '<f4').reshape(70, 100)\n"
			switch name {
			case "function":
				end = image + "mask = particles(image)\n"
			case "PyTorch":
				end = "import numpy as np\n" + image + "image = (image - image.mean()) / image.std()\n" +
					"padded = np.pad(image, ((0, -70 % 16), (0, -100 % 16)), mode='reflect')\n" +
					"with torch.no_grad():\n    mask = network(torch.from_numpy(padded[None, None]))[0, 1, :70, :100].numpy() > 0.5\n"
				modules = append(modules, "numpy")
			}
			python := pythonWith(modules)
			if name == "OpenCV" || name == "PyTorch" {
				peers.Need(t, python != "", "no Python has "+strings.Join(modules, ", "))
			} else if python == "" {
				t.Skip("no Python has " + strings.Join(modules, ", ") + " (REFOCUS_PYTHON names one)")
			}
			cmd := exec.Command(python, "-c", code+end+"open('mask', 'wb').write(mask.astype('uint8').tobytes())\n")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got, err := os.ReadFile(filepath.Join(dir, "mask"))
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d pixels, %v", len(got), err)
			}
			differ := 0
			for k := range want {
				if got[k] != want[k] {
					differ++
				}
			}
			// Probabilities differ by 2e-4 at most (see StandardizedTolerance), so that
			// hardly a pixel lies on the other side of a half.
			if differ > len(want)/1000 {
				t.Errorf("%d of %d pixels differ", differ, len(want))
			}
		})
	}
}

// pythonWith is the first Python that has the modules, "" if none has.
func pythonWith(modules []string) string {
	for _, p := range []string{os.Getenv("REFOCUS_PYTHON"), "python3", "/usr/bin/python3"} {
		if p != "" && exec.Command(p, "-c", "import sys; sys.path = [p for p in sys.path if p]; import "+strings.Join(modules, ", ")).Run() == nil {
			return p
		}
	}
	return ""
}
