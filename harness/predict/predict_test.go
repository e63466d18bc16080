package predict

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// runner predicts with the CPU backend and notes the largest image asked for.
func runner(t testing.TB, g *nn.Graph, largest *int) Run {
	s := testnet.Open(t, g)
	return func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		if largest != nil {
			*largest = max(*largest, shape[2]*shape[3])
		}
		y, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
		return y.F32, err
	}
}

// discs is a micrograph of bright discs in noise, in counts.
func discs(h, w int) (Image, []uint8) {
	im := Image{h, w, make([]float32, h*w)}
	truth := make([]uint8, h*w)
	r := random.Stream(8, "discs")
	for i := range im.Pixels {
		im.Pixels[i] = float32(1000 + 70*r.NormFloat64())
	}
	for cy := 20; cy < h; cy += 45 {
		for cx := 25; cx < w; cx += 50 {
			radius := 4 + 5*r.Float64()
			for y := max(0, cy-10); y < min(h, cy+10); y++ {
				for x := max(0, cx-10); x < min(w, cx+10); x++ {
					if math.Hypot(float64(y-cy), float64(x-cx)) < radius {
						im.Pixels[y*w+x] += 200
						truth[y*w+x] = 1
					}
				}
			}
		}
	}
	return im, truth
}

// Tiles give what one prediction of the whole padded image gives.
func TestTilesEqualWhole(t *testing.T) {
	g := testnet.Trained(t)
	m, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	const h, w = 403, 550
	im, truth := discs(h, w)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	largest, tiles := 0, 0
	tiled, err := m.Segment(ctx, im, runner(t, g, &largest), 352, func(done, total int) { tiles = total })
	if err != nil {
		t.Fatal(err)
	}
	if tiles < 4 || largest > 352*352 {
		t.Errorf("%d tiles of up to %d pixels", tiles, largest)
	}
	// the whole image by hand, padded to 416×560
	const H, W = 416, 560
	padded := make([]float32, H*W)
	for y := range H {
		for x := range W {
			sy, sx := y, x
			if sy >= h {
				sy = 2*(h-1) - sy
			}
			if sx >= w {
				sx = 2*(w-1) - sx
			}
			padded[y*W+x] = im.Pixels[sy*w+sx]
		}
	}
	whole, err := runner(t, g, nil)(ctx, []int{1, 1, H, W}, padded)
	if err != nil {
		t.Fatal(err)
	}
	var worst float64
	hits := 0
	for y := range h {
		for x := range w {
			p := whole[H*W+y*W+x]
			worst = max(worst, math.Abs(float64(tiled.Probability[y*w+x]-p)))
			if c := tiled.Class[y*w+x]; (c == 1) != (p > whole[y*W+x]) {
				t.Fatalf("class %d at probability %g", c, p)
			}
			if tiled.Class[y*w+x] == truth[y*w+x] {
				hits++
			}
		}
	}
	if !(worst <= 1e-6) {
		t.Errorf("tiles differ by %g", worst)
	}
	if f := float64(hits) / (h * w); f < 0.97 {
		t.Errorf("only %.3f of the pixels are right", f)
	}
	if _, err := m.Segment(ctx, im, runner(t, g, nil), 320, nil); err == nil || !strings.Contains(err.Error(), "at least") {
		t.Errorf("tiles that are all overlap: %v", err)
	}
}

// The margin is needed: with half of it tiles show. This also tests that
// nn.Field does not claim too little by far; that it never claims too little is
// what TestTilesEqualWhole shows.
func TestMarginMatters(t *testing.T) {
	g := testnet.Random(t, 8)
	m, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	im, _ := discs(256, 256)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	run := runner(t, g, nil)
	whole, err := m.Segment(context.Background(), im, run, 256, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.margin = 32
	tiled, err := m.Segment(context.Background(), im, run, 128, nil)
	if err != nil {
		t.Fatal(err)
	}
	var worst float64
	for i := range whole.Probability {
		worst = max(worst, math.Abs(float64(whole.Probability[i]-tiled.Probability[i])))
	}
	if worst < 1e-5 {
		t.Errorf("too small a margin changes only %g", worst)
	}
}

func TestSpans(t *testing.T) {
	for n := 16; n <= 2000; n += 16 {
		for _, tile := range []int{336, 512} {
			const margin = 160
			at := 0
			for _, s := range spans(n, tile, margin) {
				if s.from != at || s.to <= s.from || s.begin%16 != 0 || s.end > n || s.end-s.begin > tile ||
					s.begin > 0 && s.from-s.begin < margin || s.end < n && s.end-s.to < margin {
					t.Fatalf("%d pixels in tiles of %d: %+v after %d", n, tile, s, at)
				}
				at = s.to
			}
			if at != n {
				t.Fatalf("%d pixels in tiles of %d end at %d", n, tile, at)
			}
		}
	}
}

// Particles against a flood fill.
func TestParticles(t *testing.T) {
	r := random.Stream(5, "particles")
	for range 30 {
		h, w := 1+r.IntN(20), 1+r.IntN(20)
		s := &Segmentation{H: h, W: w, Class: make([]uint8, h*w), Probability: make([]float32, h*w)}
		density := r.Float64()
		for i := range s.Class {
			if r.Float64() < density {
				s.Class[i] = uint8(1 + r.IntN(2))
			}
			s.Probability[i] = float32(r.Float64())
		}
		minArea := r.IntN(4)
		labels, particles := Particles(s, minArea)

		want := make([]int32, h*w)
		seen := make([]bool, h*w)
		var next int32
		for start := range want {
			if s.Class[start] == 0 || seen[start] {
				continue
			}
			stack, region := []int{start}, []int{}
			seen[start] = true
			for len(stack) > 0 {
				at := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				region = append(region, at)
				for dy := -1; dy <= 1; dy++ {
					for dx := -1; dx <= 1; dx++ {
						y, x := at/w+dy, at%w+dx
						if y >= 0 && x >= 0 && y < h && x < w && s.Class[y*w+x] > 0 && !seen[y*w+x] {
							seen[y*w+x] = true
							stack = append(stack, y*w+x)
						}
					}
				}
			}
			if len(region) < minArea {
				continue
			}
			next++
			p := Particle{Label: int(next), Area: len(region), Top: h, Left: w}
			var votes [3]int
			for _, at := range region {
				want[at] = next
				y, x := at/w, at%w
				p.Y, p.X = p.Y+float64(y), p.X+float64(x)
				p.Top, p.Left, p.Bottom, p.Right = min(p.Top, y), min(p.Left, x), max(p.Bottom, y+1), max(p.Right, x+1)
				p.Border = p.Border || y == 0 || x == 0 || y == h-1 || x == w-1
				votes[s.Class[at]]++
			}
			p.Y, p.X = p.Y/float64(p.Area), p.X/float64(p.Area)
			p.Class = 1
			if votes[2] > votes[1] {
				p.Class = 2
			}
			for at := range want { // in the order of the pixels, as sums go
				if want[at] == next {
					p.Probability += float64(s.Probability[at])
				}
			}
			p.Probability /= float64(p.Area)
			if got := particles[next-1]; math.Abs(got.Y-p.Y) > 1e-9 || math.Abs(got.X-p.X) > 1e-9 {
				t.Fatalf("particle %+v, want %+v", got, p)
			} else {
				got.Y, got.X = p.Y, p.X
				if got != p {
					t.Fatalf("particle %+v, want %+v", got, p)
				}
			}
		}
		if !slices.Equal(labels, want) || len(particles) != int(next) {
			t.Fatalf("labels\n%v\nwant\n%v", labels, want)
		}
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	p := []Particle{{Label: 1, Class: 1, Area: 100, Y: 4.5, X: 5.5, Bottom: 10, Right: 11, Probability: 0.75, Border: true}}
	for _, tt := range []struct {
		pixel                imagefile.Calibration
		area, diameter, x, y string
	}{
		// 100 pixels of 0.02 nm: 0.04 nm², a disc of 0.2257 nm
		{imagefile.Calibration{X: 0.2, Y: 0.2, Origin: "here"}, "0.04", "0.225676", "0.02", "0.02"},
		{imagefile.Calibration{X: 0.1, Y: 0.4, Origin: "here"}, "0.04", "0.225676", "0.01", "0.04"},
		{imagefile.Calibration{}, "", "", "", ""},
	} {
		b.Reset()
		if err := WriteCSV(&b, p, []string{"background", "particle, round"}, tt.pixel); err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&b).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"1", "particle, round", "100", tt.area, tt.diameter, "4.5", "5.5", "0", "0", "10", "11", "0.75", "true", tt.x, tt.y, tt.pixel.Origin}
		if !slices.Equal(rows[1], want) {
			t.Errorf("%v, want %v", rows[1], want)
		}
	}
}

func TestFiles(t *testing.T) {
	g := testnet.Trained(t)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{Metadata: map[string]string{
		"refocus.pixel_size_angstrom": "0.2", "refocus.classes": "background, disc"}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(save(t, data), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	im, truth := discs(90, 130)
	one := filepath.Join(dir, "one.tif")
	two := filepath.Join(dir, "two.npy")
	bad := filepath.Join(dir, "bad.png")
	write := func(path string, f func(b *bytes.Buffer) error) {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(one, func(b *bytes.Buffer) error { return imagefile.WriteTIFF(b, im.H, im.W, 0.5, im.Pixels) })
	write(two, func(b *bytes.Buffer) error {
		return imagefile.WriteNPY(b, []int{2, im.H, im.W}, append(slices.Clone(im.Pixels), im.Pixels...))
	})
	write(bad, func(b *bytes.Buffer) error { b.WriteString("\x89PNG\r\n\x1a\nnonsense"); return nil })
	out := filepath.Join(dir, "out")
	var told progresstest.Recorder
	results, err := m.Files(context.Background(), []string{one, bad, two}, out, runner(t, g, nil), Options{
		MinArea: 12, Progress: &told})
	if err == nil || !strings.Contains(err.Error(), "bad.png") || strings.Contains(err.Error(), "one.tif") {
		t.Errorf("error %v, want one about bad.png", err)
	}
	var seen []string
	for _, p := range told.Phases {
		seen = append(seen, p.Name)
		if p.Done != p.Total || !p.Ended {
			t.Errorf("told %+v", p)
		}
	}
	if want := []string{one, two + "[0]", two + "[1]"}; len(results) != 3 || !slices.Equal(seen, want) {
		t.Fatalf("%d results, told of %v, want %v", len(results), seen, want)
	}
	if r := results[0]; math.Abs(r.Pixel.X-0.5) > 1e-6 || r.Pixel.Origin != "TIFF resolution" || !strings.Contains(strings.Join(r.Notes, " "), "resample") {
		t.Errorf("pixel size %+v, notes %q", r.Pixel, r.Notes)
	}
	if r := results[1]; r.Pixel.Known() || !strings.Contains(strings.Join(r.Notes, " "), "pixels only") {
		t.Errorf("pixel size %+v, notes %q: want it unknown", r.Pixel, r.Notes)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	var want []string
	for _, n := range []string{"one", "two-0000", "two-0001"} {
		for _, s := range []string{".labels.png", ".mask.png", ".overlay.png", ".particles.csv", ".probability.npy", ".probability.tif"} {
			want = append(want, n+s)
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	// the probability map in both formats, read by the readers of own data
	var maps [2][]float32
	for i, s := range []string{".npy", ".tif"} {
		st, err := imagefile.Open(filepath.Join(out, "one.probability"+s))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		if st.H != im.H || st.W != im.W || s == ".tif" && math.Abs(st.Info(0).Pixel.X-0.5) > 1e-6 {
			t.Errorf("%s: %d×%d pixels of %g Å", s, st.H, st.W, st.Info(0).Pixel.X)
		}
		maps[i] = make([]float32, st.H*st.W)
		if err := st.At(0, maps[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(maps[0], maps[1]) {
		t.Error("the probability maps differ")
	}
	labels, mask := decode(t, filepath.Join(out, "one.labels.png")).(*image.Gray16), decode(t, filepath.Join(out, "one.mask.png")).(*image.Gray)
	area := make([]int, len(results[0].Particles)+1)
	hits := 0
	for i := range im.H * im.W {
		l := labels.Gray16At(i%im.W, i/im.W).Y
		area[l]++
		if (l > 0) != (mask.Pix[i] == 255) {
			t.Fatal("mask and labels disagree")
		}
		if (truth[i] > 0) == (l > 0) {
			hits++
		}
	}
	for _, p := range results[0].Particles {
		if area[p.Label] != p.Area || p.Area < 12 {
			t.Errorf("particle %d: area %d in the table, %d in the image", p.Label, p.Area, area[p.Label])
		}
	}
	if n := len(results[0].Particles); n < 4 || n > 8 || hits < 97*im.H*im.W/100 {
		t.Errorf("%d particles where 6 are, %d of %d pixels right", n, hits, im.H*im.W)
	}
	if b := decode(t, filepath.Join(out, "one.overlay.png")).Bounds(); b.Dx() != im.W || b.Dy() != im.H {
		t.Errorf("overlay %v", b)
	}
	if _, err := m.Files(context.Background(), []string{one, "elsewhere/ONE.npy"}, out, nil, Options{}); err == nil {
		t.Error("accepted two files of one name")
	}
}

func decode(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// tifffile and NumPy read what we write.
func TestPython(t *testing.T) {
	python := peers.Python(t, "numpy", "tifffile")
	dir := t.TempDir()
	im, _ := discs(7, 11)
	for name, f := range map[string]func(b *bytes.Buffer) error{
		"a.tif": func(b *bytes.Buffer) error { return imagefile.WriteTIFF(b, 7, 11, 0.2, im.Pixels) },
		"b.tif": func(b *bytes.Buffer) error { return imagefile.WriteTIFF(b, 7, 11, 0, im.Pixels) },
		"c.npy": func(b *bytes.Buffer) error { return imagefile.WriteNPY(b, []int{7, 11}, im.Pixels) },
	} {
		var b bytes.Buffer
		if err := f(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(python, "-c", `
import sys, numpy, tifffile
d = sys.argv[1] + "/"
a, b, c = tifffile.imread(d + "a.tif"), tifffile.imread(d + "b.tif"), numpy.load(d + "c.npy")
assert a.shape == (7, 11) and a.dtype == numpy.float32
assert (a == c).all() and (b == c).all()
tags = tifffile.TiffFile(d + "a.tif").pages[0].tags
n, m = tags["XResolution"].value
assert n / m == 5e8 and tags["ResolutionUnit"].value == 3, (n, m)
`, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A file that standardises is used without that.
func TestDecodeStandardizing(t *testing.T) {
	g := testnet.Random(t, 4)
	h := g.Clone()
	for _, n := range h.Nodes {
		for i, in := range n.Inputs {
			if in == h.Input.Name {
				n.Inputs[i] = "s"
			}
		}
	}
	h.Nodes = append([]*nn.Node{{Name: "s", Op: "InstanceNormalization", Inputs: []string{h.Input.Name, "one", "zero"}, Outputs: []string{"s"}, Attrs: nn.Attrs{}}}, h.Nodes...)
	h.Tensors = append(h.Tensors, &nn.Tensor{Name: "one", Shape: []int{1}, Data: []float32{1}}, &nn.Tensor{Name: "zero", Shape: []int{1}, Data: []float32{0}})
	data, err := onnx.Marshal(h, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(save(t, data), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m.Graph, g) {
		t.Error("the network is not the one without standardisation")
	}
}

// save writes a model to a file of its own.
func save(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Memory does not grow with the image, and cancelling stops between tiles.
func TestCancel(t *testing.T) {
	m, err := New(testnet.Random(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	im, _ := discs(2048, 1024)
	ctx, cancel := context.WithCancel(context.Background())
	run := func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		h, w := shape[2], shape[3]
		if h*w > 512*512 {
			t.Errorf("a tile of %d×%d pixels", h, w)
		}
		return make([]float32, 2*h*w), nil
	}
	if _, err := m.Segment(ctx, im, run, 512, func(done, total int) {
		if done == 3 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A network whose pixels depend on the size of the image is run whole or not
// at all.
func TestWholeOnly(t *testing.T) {
	g := &nn.Graph{
		Input: nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "p", Shape: []int{0, 2, 0, 0}},
		Tensors: []*nn.Tensor{
			{Name: "w", Shape: []int{2, 1, 3, 3}, Data: []float32{0, 1, 0, 1, 2, 1, 0, 1, 0, 0, -1, 0, -1, 0, -1, 0, -1, 0}},
			{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 2, 2}},
		},
		Nodes: []*nn.Node{
			{Name: "conv", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"c"}, Attrs: nn.Attrs{"pads": []int64{1, 1, 1, 1}}},
			{Name: "pool", Op: "MaxPool", Inputs: []string{"c"}, Outputs: []string{"d"}, Attrs: nn.Attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}},
			{Name: "up", Op: "Resize", Inputs: []string{"d", "", "s"}, Outputs: []string{"u"}, Attrs: nn.Attrs{"mode": "linear", "coordinate_transformation_mode": "align_corners"}},
			{Name: "softmax", Op: "Softmax", Inputs: []string{"u"}, Outputs: []string{"p"}, Attrs: nn.Attrs{"axis": int64(1)}},
		},
	}
	g.AssignRoles()
	m, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	im, _ := discs(33, 50)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	ctx, run := context.Background(), runner(t, g, nil)
	s, err := m.Segment(ctx, im, run, 64, nil)
	if err != nil || len(s.Probability) != 33*50 {
		t.Errorf("33×50 pixels: %v", err)
	}
	if _, err := m.Segment(ctx, im, run, 32, nil); err == nil || !strings.Contains(err.Error(), `node "up" (Resize)`) {
		t.Errorf("33×50 pixels in tiles of 32: %v", err)
	}
}

// Tiles of a network with the operators of other people's U-Nets: nn.Field must
// not claim too little for any of them.
func TestTilesOfOthers(t *testing.T) {
	g := &nn.Graph{Input: nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "p", Shape: []int{0, 2, 0, 0}}}
	tensor := func(name string, shape ...int) string {
		v := &nn.Tensor{Name: name, Shape: shape}
		r := random.Stream(7, name)
		for range v.Len() {
			v.Data = append(v.Data, float32(r.NormFloat64()))
		}
		g.Tensors = append(g.Tensors, v)
		return name
	}
	node := func(op string, attrs nn.Attrs, inputs ...string) string {
		name := op + string(rune('a'+len(g.Nodes)))
		g.Nodes = append(g.Nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{name}, Attrs: attrs})
		return name
	}
	ints := func(v ...int64) []int64 { return v }
	skip := node("Conv", nn.Attrs{"pads": ints(4, 2, 4, 2), "dilations": ints(2, 1)}, "x", tensor("w1", 3, 1, 5, 5))
	x := node("MaxPool", nn.Attrs{"kernel_shape": ints(3, 3), "strides": ints(2, 2), "pads": ints(1, 1, 1, 1)}, skip)
	x = node("Conv", nn.Attrs{"pads": ints(0, 2, 2, 0)}, x, tensor("w2", 4, 3, 3, 3))
	x = node("ConvTranspose", nn.Attrs{"strides": ints(2, 2), "pads": ints(1, 1, 1, 1), "output_padding": ints(1, 1)}, x, tensor("w3", 4, 3, 3, 3))
	x = node("Concat", nn.Attrs{"axis": int64(1)}, x, skip)
	x = node("AveragePool", nn.Attrs{"kernel_shape": ints(2, 4), "strides": ints(2, 4)}, x)
	g.Tensors = append(g.Tensors, &nn.Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 2, 4}})
	x = node("Resize", nn.Attrs{"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, x, "", "s")
	x = node("Conv", nn.Attrs{"pads": ints(1, 1, 1, 1)}, x, tensor("w4", 2, 6, 3, 3))
	// and those that move pixels
	list := func(name string, v ...int64) string {
		g.Tensors = append(g.Tensors, &nn.Tensor{Name: name, Shape: []int{len(v)}, Ints: v})
		return name
	}
	x = node("Pad", nn.Attrs{"mode": "reflect"}, x, list("pads", 0, 0, 3, 1, 0, 0, 2, 2))
	x = node("Conv", nil, x, tensor("w5", 4, 2, 3, 2))
	x = node("Slice", nil, x, list("starts", 1, 1), list("ends", -2, -1), list("axes", 2, 3))
	x = node("Pad", nil, x, list("pads2", 0, 0, 0, 0, 0, 0, 0, 0))
	x = node("DepthToSpace", nn.Attrs{"blocksize": int64(2)}, x)
	x = node("SpaceToDepth", nn.Attrs{"blocksize": int64(4)}, x)
	g.Tensors = append(g.Tensors, &nn.Tensor{Name: "two", Shape: []int{4}, Data: []float32{1, 1, 2, 2}})
	x = node("Resize", nn.Attrs{"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}, x, "", "two")
	mean := node("ReduceMean", nn.Attrs{"axes": ints(1), "keepdims": int64(1)}, x)
	x = node("Sub", nil, x, mean)
	x = node("PRelu", nil, x, tensor("slope", 16, 1, 1))
	x = node("Conv", nil, x, tensor("w6", 2, 16, 1, 1))
	g.Nodes = append(g.Nodes, &nn.Node{Name: "p", Op: "Softmax", Inputs: []string{x}, Outputs: []string{"p"}, Attrs: nn.Attrs{"axis": int64(1)}})
	g.AssignRoles()
	m, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	if m.grid.period != 4 || m.margin > 40 {
		t.Errorf("period %d, margin %d", m.grid.period, m.margin)
	}
	im, _ := discs(150, 131)
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	ctx, run := context.Background(), runner(t, g, nil)
	whole, err := m.Segment(ctx, im, run, 256, nil)
	if err != nil {
		t.Fatal(err)
	}
	tiled, err := m.Segment(ctx, im, run, 64, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range whole.Probability {
		if d := math.Abs(float64(p - tiled.Probability[i])); d > 1e-6 {
			t.Fatalf("pixel (%d, %d): %g in tiles, %g whole", i/im.W, i%im.W, tiled.Probability[i], p)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.zip")
	for content, want := range map[string]string{"PK\x03\x04": "zip", "text": "ONNX model"} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, LoadOptions{}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("a file with %q: error %v does not say %q", content, err, want)
		}
	}
}
