package predict

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"image"
	"image/png"
	"io"
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
	"github.com/refocus-em/refocus/harness/measure"
	"github.com/refocus-em/refocus/harness/micrograph"
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
	parts, pixels := make([]float32, h*w), 0
	tiled, err := m.Segment(ctx, im, runner(t, g, &largest), 352, func(p Part) {
		for y := p.Top; y < p.Bottom; y++ {
			pixels += copy(parts[y*w+p.Left:y*w+p.Right], p.Probability[y*w+p.Left:])
		}
		if tiles != p.Done || p.Image.H != h {
			t.Errorf("part %d is told as %d, of an image of %d rows", tiles, p.Done, p.Image.H)
		}
		tiles++
	})
	if err != nil {
		t.Fatal(err)
	}
	if tiles--; pixels != h*w || !slices.Equal(parts, tiled.Probability) {
		t.Errorf("the parts that were told have %d of %d pixels, or others than the whole", pixels, h*w)
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
		for i, c := range s.Class { // what is a particle
			s.Probability[i] /= 2
			if c > 0 {
				s.Probability[i] += 0.5000001
			}
		}
		minArea := r.IntN(4)
		labels, particles, _ := Particles(s, ParticleOptions{MinArea: minArea})

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
			p := Particle{Label: int(next), Region: measure.Region{Area: len(region), Top: h, Left: w}}
			var votes [3]int
			for _, at := range region {
				want[at] = next
				y, x := at/w, at%w
				p.Y, p.X = p.Y+float64(y), p.X+float64(x)
				p.Top, p.Left, p.Bottom, p.Right = min(p.Top, y), min(p.Left, x), max(p.Bottom, y+1), max(p.Right, x+1)
				p.Cut = p.Cut || y == 0 || x == 0 || y == h-1 || x == w-1
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
			} else if got.Label != p.Label || got.Area != p.Area || got.Class != p.Class || got.Cut != p.Cut || got.Probability != p.Probability ||
				got.Top != p.Top || got.Left != p.Left || got.Bottom != p.Bottom || got.Right != p.Right {
				t.Fatalf("particle %+v, want %+v", got, p)
			}
		}
		if !slices.Equal(labels, want) || len(particles) != int(next) {
			t.Fatalf("labels\n%v\nwant\n%v", labels, want)
		}
	}
}

func TestParticleOptions(t *testing.T) {
	// a ring at the border, a bar, a speck
	picture := []string{
		"....###....",
		"....#.#..2.",
		"....###....",
		"...........",
		".111111....",
		".111111....",
		"...........",
	}
	s := &Segmentation{H: len(picture), W: len(picture[0])}
	for _, row := range picture {
		for _, c := range row {
			p := map[rune]float32{'.': 0.1, '#': 0.7, '1': 0.9, '2': 0.6}[c]
			s.Probability = append(s.Probability, p)
			s.Class = append(s.Class, map[bool]uint8{true: 1}[p > 0.5])
		}
	}
	blind := make([]bool, s.H*s.W)
	for y := range s.H {
		blind[y*s.W+7] = true
	}
	for name, c := range map[string]struct {
		o     ParticleOptions
		areas []int
		small int
	}{
		"default":      {ParticleOptions{}, []int{8, 1, 12}, 0},
		"threshold":    {ParticleOptions{Threshold: 0.8}, []int{12}, 0},
		"holes":        {ParticleOptions{FillHoles: true}, []int{9, 1, 12}, 0},
		"min area":     {ParticleOptions{MinArea: 2}, []int{8, 12}, 1},
		"border":       {ParticleOptions{ExcludeBorder: true}, []int{1, 12}, 0},
		"blind":        {ParticleOptions{ExcludeBorder: true, Blind: blind}, []int{1}, 0},
		"min diameter": {ParticleOptions{MinDiameter: 2, Height: 1, Width: 0.5}, []int{8, 12}, 1},
		"size unknown": {ParticleOptions{MinDiameter: 2}, []int{8, 1, 12}, 0},
	} {
		labels, particles, small := Particles(s, c.o)
		var areas []int
		for i, p := range particles {
			areas = append(areas, p.Area)
			if p.Label != i+1 || !slices.Contains(labels, int32(p.Label)) {
				t.Errorf("%s: particle %d has label %d", name, i, p.Label)
			}
		}
		if !slices.Equal(areas, c.areas) || small != c.small {
			t.Errorf("%s: areas %v, %d too small; want %v, %d", name, areas, small, c.areas, c.small)
		}
	}
}

func TestCSV(t *testing.T) {
	s := &Segmentation{H: 12, W: 12, Class: make([]uint8, 144), Probability: make([]float32, 144)}
	intensity := make([]float32, 144)
	for y := range 10 {
		for x := range 10 {
			s.Class[y*12+x], s.Probability[y*12+x], intensity[y*12+x] = 1, 0.75, 3
		}
	}
	r := Result{Source: "a,b.tif", Page: 2, PixelHeight: 0.02, PixelWidth: 0.02, PixelSizeFrom: "the file"}
	classes := []string{"background", "particle, round"}
	_, known, _ := Particles(s, ParticleOptions{Height: 0.02, Width: 0.02, Image: intensity})
	_, unknown, _ := Particles(s, ParticleOptions{})
	var b bytes.Buffer
	if err := WriteCSV(&b, []Row{r.row(&known[0], classes), (&Result{}).row(&unknown[0], classes)}); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	// 100 pixels of 0.02 nm: 0.04 nm², a disc of 0.2257 nm; a square of 10 pixels has
	// 10 chords either way and 19 along either diagonal: a perimeter of
	// π/4·(20 + 38/√2) pixels
	for name, want := range map[string][2]string{
		"file": {"a,b.tif", ""}, "page": {"2", "0"}, "label": {"1", "1"}, "class": {"particle, round", "particle, round"},
		"area_px": {"100", "100"}, "area_nm2": {"0.04", ""}, "equivalent_diameter_px": {"11.2838", "11.2838"}, "equivalent_diameter_nm": {"0.225676", ""},
		"perimeter_nm": {"0.736233", ""}, "feret_min_px": {"10", "10"}, "feret_min_nm": {"0.2", ""}, "solidity": {"1", "1"}, "mean_intensity": {"3", "0"},
		"integrated_intensity": {"300", "0"}, "mean_probability": {"0.75", "0.75"}, "centre_y_px": {"4.5", "4.5"}, "touches_border": {"true", "true"},
		"pixel_height_nm": {"0.02", ""}, "pixel_size_from": {"the file", ""},
	} {
		i := slices.Index(rows[0], name)
		if i < 0 || rows[1][i] != want[0] || rows[2][i] != want[1] {
			t.Errorf("column %s: %q and %q, want %q", name, rows[1][max(i, 0)], rows[2][max(i, 0)], want)
		}
	}
}

// trained is the test network as refocus exports one, for pixels of 0.2 Å.
func trained(t *testing.T) (*Segmenter, Run) {
	t.Helper()
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
	return m, runner(t, m.Graph, nil)
}

// write makes a file of what f writes.
func write(t *testing.T, path string, f func(w io.Writer) error) {
	t.Helper()
	var b bytes.Buffer
	if err := f(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	m, run := trained(t)
	dir := t.TempDir()
	im, truth := discs(90, 130)
	folder := filepath.Join(dir, "folder")
	one, bad := filepath.Join(dir, "one.tif"), filepath.Join(dir, "bad.png")
	write(t, one, func(w io.Writer) error { return imagefile.WriteTIFF(w, im.H, im.W, 0.2, im.Pixels) })
	two, ten := filepath.Join(folder, "im2.npy"), filepath.Join(folder, "im10.npy")
	write(t, two, func(w io.Writer) error {
		return imagefile.WriteNPY(w, []int{2, im.H, im.W}, append(slices.Clone(im.Pixels), im.Pixels...))
	})
	write(t, ten, func(w io.Writer) error { return imagefile.WriteNPY(w, []int{45, 130}, im.Pixels[:45*130]) })
	write(t, filepath.Join(folder, "Thumbs.db"), func(w io.Writer) error { _, err := io.WriteString(w, "stray"); return err })
	write(t, bad, func(w io.Writer) error { _, err := io.WriteString(w, "\x89PNG\r\n\x1a\nnonsense"); return err })
	out := filepath.Join(dir, "out")
	var told progresstest.Recorder
	var warned []string
	o := Options{ParticleOptions: ParticleOptions{MinArea: 12}, Progress: &told, Warn: func(s string) { warned = append(warned, s) }}
	args := []string{one, bad, folder}
	results, err := m.Files(context.Background(), args, out, run, o)
	if err == nil || !strings.Contains(err.Error(), "bad.png") || strings.Contains(err.Error(), "one.tif") || strings.Contains(err.Error(), "Thumbs") {
		t.Errorf("error %v, want one about bad.png", err)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "Thumbs.db") {
		t.Errorf("warned of %q", warned)
	}
	var seen, names []string
	for _, p := range told.Phases {
		seen = append(seen, p.Name)
		if p.Done != p.Total || !p.Ended {
			t.Errorf("told %+v", p)
		}
	}
	for _, r := range results {
		names = append(names, r.Name)
	}
	if want := []string{"one", "im2-0000", "im2-0001", "im10"}; !slices.Equal(names, want) {
		t.Fatalf("results %v, want %v", names, want)
	}
	if want := []string{one, two, two + "[1]", ten}; !slices.Equal(seen, want) {
		t.Errorf("told of %v, want %v", seen, want)
	}
	if r := results[0]; math.Abs(r.PixelHeight-0.02) > 1e-9 || r.PixelSizeFrom != "TIFF resolution" || len(r.Notes) > 0 {
		t.Errorf("pixel size %g from %s, notes %q", r.PixelHeight, r.PixelSizeFrom, r.Notes)
	}
	if r := results[1]; r.PixelHeight != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "--pixel-size") || r.Particles[0].DiameterNM != nil {
		t.Errorf("pixel size %g where none is known, notes %q", r.PixelHeight, r.Notes)
	}
	var want []string
	for _, n := range names {
		for _, s := range []string{".geojson", ".json", ".labels.png", ".mask.png", ".overlay.png", ".probability.tif", ".rois.zip"} {
			want = append(want, n+s)
		}
	}
	want = append(want, "index.html", "particles.csv", "results.json")
	slices.Sort(want)
	if got := listing(t, out); !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	st, err := imagefile.Open(filepath.Join(out, "one.probability.tif"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if st.H != im.H || st.W != im.W || math.Abs(st.Info(0).Pixel.X-0.2) > 1e-6 {
		t.Errorf("%d×%d pixels of %g Å", st.H, st.W, st.Info(0).Pixel.X)
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
	page, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil || !strings.Contains(string(page), "log-normal fit") || !strings.Contains(string(page), "im10.overlay.png") || !strings.Contains(string(page), "Thumbs.db") {
		t.Errorf("the page lacks something (%v)", err)
	}

	// Again: nothing is predicted; another option, or a lost file, and it is.
	refuse := func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		return nil, errors.New("asked")
	}
	table, err := os.ReadFile(filepath.Join(out, "particles.csv"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Files(context.Background(), []string{one, folder}, out, refuse, o)
	if err != nil || len(again) != 4 || !again[3].Kept {
		t.Errorf("a second run: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(out, "particles.csv")); err != nil || !bytes.Equal(b, table) {
		t.Errorf("the table of a second run differs (%v)", err)
	}
	o.Flatten = true
	if _, err := m.Files(context.Background(), []string{one}, out, refuse, o); err == nil || !strings.Contains(err.Error(), "asked") {
		t.Errorf("with another option: %v", err)
	}
	o.Flatten = false
	if err := os.Remove(filepath.Join(out, "one.mask.png")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Files(context.Background(), []string{one}, out, refuse, o); err == nil || !strings.Contains(err.Error(), "asked") {
		t.Errorf("with a file missing: %v", err)
	}
}

// listing is the names in a folder.
func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"s1/0001.tif", "s2/0001.tif", "c/img10.tif", "c/img2.tif", "c/img1.tif", "c/.hidden", "d/x.tif", "d/x.npy"} {
		write(t, filepath.Join(dir, f), func(w io.Writer) error { return nil })
	}
	if err := os.Mkdir(filepath.Join(dir, "c/sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, names []string }{
		{[]string{"c"}, []string{"img1", "img2", "img10"}},
		{[]string{"c/*1*.tif"}, []string{"img1", "img10"}},
		{[]string{"c/img2.tif", "c"}, []string{"img2", "img1", "img10"}},
		{[]string{"s1/0001.tif", "s2/0001.tif"}, []string{"s1-0001-tif", "s2-0001-tif"}},
		{[]string{"d"}, []string{"x-npy", "x-tif"}},
		{[]string{"e.npz:a/b", "e.npz:c"}, []string{"e-a-b", "e-c"}},
		{[]string{"f/m-0000.tif", "f/m-0001.tif"}, []string{"m-0000", "m-0001"}},
		{[]string{"f/M.tif", "f/m-0000.tif", "f/n.tif"}, []string{"M-tif", "m-0000-tif", "n"}}, // if M is a stack
		{[]string{"f/results.tif", "f/n.tif"}, []string{"results-tif", "n"}},                   // beside results.json
	} {
		var args []string
		for _, a := range c.args {
			args = append(args, filepath.Join(dir, a))
		}
		inputs, err := Inputs(args)
		var names []string
		for _, in := range inputs {
			names = append(names, in.Name)
		}
		if err != nil || !slices.Equal(names, c.names) {
			t.Errorf("%v: names %v, want %v (%v)", c.args, names, c.names, err)
		}
	}
	if _, err := Inputs([]string{filepath.Join(dir, "*.png")}); err == nil || !strings.Contains(err.Error(), "no file matches") {
		t.Errorf("a pattern that matches nothing: %v", err)
	}
}

// found segments an image by the way that files take and returns how well it
// agrees with the truth in what can be seen, and the particles.
func found(t *testing.T, m *Segmenter, run Run, h, w int, px []float32, truth []uint8, size float64) (iou float64, particles int) {
	t.Helper()
	s, blind := segmented(t, m, run, h, w, px, size)
	_, list, _ := Particles(s, ParticleOptions{MinDiameter: 0.04, Height: size / 10, Width: size / 10, Blind: blind})
	return agreement(s, truth, blind), len(list)
}

func segmented(t *testing.T, m *Segmenter, run Run, h, w int, px []float32, size float64) (*Segmentation, []bool) {
	t.Helper()
	r := &Result{PixelHeight: size / 10, PixelWidth: size / 10}
	s, blind, err := m.segment(context.Background(), r, &micrograph.Image{H: h, W: w, Pixels: slices.Clone(px)}, run, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, blind
}

// agreement is the intersection over union with the truth outside blind areas.
func agreement(s *Segmentation, truth []uint8, blind []bool) float64 {
	both, either := 0, 0
	for i, p := range s.Probability {
		if blind != nil && blind[i] {
			continue
		}
		if p > 0.5 && truth[i] > 0 {
			both++
		}
		if p > 0.5 || truth[i] > 0 {
			either++
		}
	}
	return float64(both) / float64(either)
}

// What spoils an image does not spoil its segmentation.
func TestDefectsDoNotMatter(t *testing.T) {
	m, run := trained(t)
	const h, w = 256, 272
	im, truth := discs(h, w)
	clean, n := found(t, m, run, h, w, im.Pixels, truth, 0.2)
	if clean < 0.75 {
		t.Fatalf("intersection over union of the clean image %.3f", clean)
	}
	ofClean, _ := segmented(t, m, run, h, w, im.Pixels, 0.2)
	aperture := func(radius, softness float64, outside func() float32) func(x []float32) {
		return func(x []float32) {
			for i := range x {
				d := math.Hypot(float64(i/w-h/2), float64(i%w-w/2)) - radius
				switch {
				case softness > 0:
					x[i] = float32(math.Round(float64(x[i]) / (1 + math.Exp(d/softness))))
				case d > 0:
					x[i] = outside()
				}
			}
		}
	}
	r := random.Stream(3, "defects")
	for _, c := range []struct {
		name  string
		upTo  float64
		spoil func(x []float32)
	}{
		{"one pixel of 30000", 0.02, func(x []float32) { x[50*w+60] = 30000 }},
		{"50 saturated pixels", 0.02, func(x []float32) {
			for range 50 {
				x[r.IntN(h*w)] = 65535
			}
		}},
		{"NaN", 0.02, func(x []float32) { x[77], x[9000] = float32(math.NaN()), float32(math.NaN()) }},
		{"a dead edge", 0.05, func(x []float32) {
			for i := range x {
				if i%w < 20 {
					x[i] = 0
				}
			}
		}},
		{"a round aperture", 0.05, aperture(110, 0, func() float32 { return float32(r.IntN(3)) })},
		{"a round aperture, all dark", 0.05, aperture(90, 0, func() float32 { return 0 })},
		{"a round aperture out of focus", 0.05, aperture(100, 3, nil)},
	} {
		x := slices.Clone(im.Pixels)
		c.spoil(x)
		s, blind := segmented(t, m, run, h, w, x, 0.2)
		// where both see
		if iou, want := agreement(s, truth, blind), agreement(ofClean, truth, blind); math.Abs(iou-want) > c.upTo {
			t.Errorf("%s: intersection over union %.3f, of the clean image %.3f", c.name, iou, want)
		}
	}

	// The same field at other pixel sizes: as many particles, to a tenth.
	for _, f := range []int{2, 3} {
		H, W := f*h, f*w
		x, big := make([]float32, H*W), make([]uint8, H*W)
		for i := range x {
			from := i/W/f*w + i%W/f
			x[i], big[i] = im.Pixels[from], truth[from]
		}
		iou, k := found(t, m, run, H, W, x, big, 0.2/float64(f))
		if math.Abs(float64(k-n)) > 0.1*float64(n) || math.Abs(iou-clean) > 0.02 {
			t.Errorf("at a %dth of the pixel size: %d particles and %.3f, want %d and %.3f", f, k, iou, n, clean)
		}
	}
}

// A blank image of a stack does not keep those after it from their results.
func TestBlankImage(t *testing.T) {
	m, run := trained(t)
	dir := t.TempDir()
	im, _ := discs(48, 64)
	pixels := slices.Concat(im.Pixels, slices.Repeat([]float32{7}, len(im.Pixels)), im.Pixels)
	path := filepath.Join(dir, "stack.npy")
	write(t, path, func(w io.Writer) error { return imagefile.WriteNPY(w, []int{3, im.H, im.W}, pixels) })
	results, err := m.Files(t.Context(), []string{path}, filepath.Join(dir, "out"), run, Options{})
	if err == nil || !strings.Contains(err.Error(), "image 1") || len(results) != 2 || results[1].Page != 2 {
		t.Errorf("%d results, error %v", len(results), err)
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
	if _, err := m.Segment(ctx, im, run, 512, func(p Part) {
		if p.Done == 3 {
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

// The note on resampling names both sides of pixels that are not square.
func TestNoteOfPixelsThatAreNotSquare(t *testing.T) {
	im := &micrograph.Image{H: 8, W: 8, Pixels: make([]float32, 64)}
	for i := range im.Pixels {
		im.Pixels[i] = float32(i % 7)
	}
	m := &Segmenter{PixelSize: 0.4, Preparation: Standardized()}
	r := Result{PixelHeight: 0.04, PixelWidth: 0.02}
	p, err := m.prepare(&r, im, Options{NoRepair: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := "predicted at the network's pixel size, 0.4 Å instead of 0.4 Å × 0.2 Å"; !slices.Contains(r.Notes, want) || p.H != 8 || p.W != 4 {
		t.Errorf("%d×%d pixels, notes %q, want %q", p.H, p.W, r.Notes, want)
	}
}
