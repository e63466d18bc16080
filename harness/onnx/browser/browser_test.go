package browser

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/testkit/chromium"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// The page segments its example in headless Chromium and gets what package
// predict gets with the CPU backend. REFOCUS_SCREENSHOT names a PNG to write.
func TestPage(t *testing.T) {
	chromium.Need(t)
	r, err := FindRuntime()
	peers.Need(t, !errors.Is(err, ErrNoRuntime), fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}
	g := testnet.Trained(t)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x := testnet.Noise(1, 1, 90, 130)
	for i := range x.F32 {
		x.F32[i] = 1000 + 100*x.F32[i]
	}
	p := Page{
		Title: "Discs in noise <b>", Description: "A small network that finds discs & nothing else.", Model: data, PixelSize: 0.2,
		Classes: []string{"background", "disc"}, Example: &predict.Image{H: 90, W: 130, Pixels: x.F32},
	}
	path := filepath.Join(t.TempDir(), "page.html")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Write(f, r); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// what the page should say
	m, err := predict.New(g)
	if err != nil {
		t.Fatal(err)
	}
	im := predict.Image{H: 90, W: 130, Pixels: append([]float32(nil), x.F32...)}
	if err := pixels.Standardize(im.Pixels, im.W); err != nil {
		t.Fatal(err)
	}
	s := testnet.Open(t, g)
	seg, err := m.Segment(context.Background(), im, func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		y, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
		return y.F32, err
	}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mean, above float64
	for _, v := range seg.Probability {
		mean += float64(v)
		if v > 0.5 {
			above++
		}
	}
	mean /= float64(len(seg.Probability))
	above *= 100 / float64(len(seg.Probability))

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	tab := chromium.Open(ctx, t, "file://"+path+"#example")
	for tab.Eval(t, "document.body.dataset.done ?? ''") != "example" {
		if status := tab.Eval(t, "document.getElementById('status').className + document.getElementById('status').textContent"); strings.HasPrefix(status, "bad") {
			t.Fatalf("the page says: %s", status)
		}
		time.Sleep(100 * time.Millisecond)
	}
	number := func(label string) float64 {
		text := tab.Eval(t, fmt.Sprintf("[...document.querySelectorAll('#numbers tr')].find((r) => r.cells[0].textContent == %q).cells[1].textContent", label))
		v, err := strconv.ParseFloat(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' })[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if got := number("mean probability"); math.Abs(got-mean) > 2e-6 {
		t.Errorf("mean probability %g, the backend's is %g", got, mean)
	}
	if got := number("area above the threshold"); math.Abs(got-above) > 0.02 { // two pixels
		t.Errorf("%g %% above the threshold, the backend has %g %%", got, above)
	}
	if title := tab.Eval(t, "document.querySelector('h1').textContent"); title != p.Title {
		t.Errorf("title %q", title)
	}
	// a file dropped as a person would: a TIFF and something else
	var image bytes.Buffer
	if err := imagefile.WriteTIFF(&image, 90, 130, 0.2, x.F32); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"b.txt", []byte("hello"), "b.txt: not an image that this page reads"},
		{"a.tif", image.Bytes(), "a.tif: done in"},
	} {
		tab.Eval(t, fmt.Sprintf(`(() => {
			const data = new DataTransfer();
			data.items.add(new File([Uint8Array.from(atob(%q), (c) => c.charCodeAt(0))], %q));
			document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
			return "";
		})()`, base64.StdEncoding.EncodeToString(c.content), c.name))
		for !strings.HasPrefix(tab.Eval(t, "document.getElementById('status').textContent"), c.want) {
			time.Sleep(100 * time.Millisecond) // the context ends it
		}
	}
	if got := number("mean probability"); math.Abs(got-mean) > 2e-6 {
		t.Errorf("from a TIFF: mean probability %g, the backend's is %g", got, mean)
	}
	if shot := os.Getenv("REFOCUS_SCREENSHOT"); shot != "" {
		var r struct{ Data []byte }
		tab.Call(t, "Page.captureScreenshot", map[string]any{"format": "png"}, &r)
		if err := os.WriteFile(shot, r.Data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
