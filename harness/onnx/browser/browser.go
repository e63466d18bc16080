// Package browser writes a web page that runs a model on images dropped into
// it: one file without a server or a network, with the model and ONNX Runtime's
// WebAssembly build (npm onnxruntime-web) inside.
package browser

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/refocus-em/refocus/harness/predict"

	"github.com/refocus-em/refocus/harness/onnx"
)

//go:embed page.html
var page string

//go:embed page.js
var script string

// Page is what the page shows.
type Page struct {
	Title       string
	Description string
	Model       []byte // ONNX, for standardised images; probabilities out
	PixelSize   float64
	Classes     []string       // the background first
	Example     *predict.Image // to try the page with; optional
}

// tile is the side of a tile in pixels: WebAssembly has 4 GB of memory.
const tile = 768

// Runtime is ONNX Runtime for browsers.
type Runtime struct{ js, wasm []byte }

// ErrNoRuntime is wrapped when onnxruntime-web is not installed.
var ErrNoRuntime = errors.New("onnxruntime-web is not installed (npm i onnxruntime-web)")

// FindRuntime looks for onnxruntime-web in $REFOCUS_NODE_MODULES and
// ./node_modules.
func FindRuntime() (Runtime, error) {
	for _, dir := range []string{os.Getenv("REFOCUS_NODE_MODULES"), "node_modules"} {
		if dir == "" {
			continue
		}
		dist := filepath.Join(dir, "onnxruntime-web", "dist")
		js, err := os.ReadFile(filepath.Join(dist, "ort.wasm.bundle.min.mjs"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return Runtime{}, err
		}
		wasm, err := os.ReadFile(filepath.Join(dist, "ort-wasm-simd-threaded.wasm"))
		if err != nil {
			return Runtime{}, err
		}
		return Runtime{js, wasm}, nil
	}
	return Runtime{}, ErrNoRuntime
}

// Write writes the page.
func (p *Page) Write(w io.Writer, r Runtime) error {
	g, err := onnx.Unmarshal(p.Model)
	if err != nil {
		return err
	}
	if g.Output.Shape[1] != len(p.Classes) || len(p.Classes) < 2 {
		return fmt.Errorf("%d class names for %d output channels", len(p.Classes), g.Output.Shape[1])
	}
	f, err := g.Field()
	if err != nil {
		return fmt.Errorf("the page runs networks in tiles: %w", err)
	}
	config := map[string]any{
		"period":    f.Period,
		"margin":    (f.Radius + f.Period - 1) / f.Period * f.Period,
		"tile":      tile / f.Period * f.Period,
		"classes":   p.Classes,
		"pixelSize": p.PixelSize,
	}
	if 2*config["margin"].(int) >= config["tile"].(int) {
		return fmt.Errorf("the network's receptive field of ±%d pixels is too large for tiles of %d", f.Radius, tile)
	}
	if x := p.Example; x != nil {
		if len(x.Pixels) != x.H*x.W {
			return fmt.Errorf("%d pixels for an example of %d×%d", len(x.Pixels), x.H, x.W)
		}
		b := make([]byte, 0, 4*len(x.Pixels))
		for _, v := range x.Pixels {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		config["example"] = map[string]any{"h": x.H, "w": x.W, "pixels": base64.StdEncoding.EncodeToString(b)}
	}
	c, err := json.Marshal(config) // escapes what HTML would see
	if err != nil {
		return err
	}
	t, err := template.New("page").Parse(page)
	if err != nil {
		return err
	}
	var packed [3]string
	for i, data := range [][]byte{r.js, r.wasm, p.Model} {
		if packed[i], err = pack(data); err != nil {
			return err
		}
	}
	return t.Execute(w, map[string]any{
		"Title": p.Title, "Description": p.Description, "PixelSize": p.PixelSize,
		"Foreground": strings.Join(p.Classes[1:], ", "), "HasExample": p.Example != nil,
		"Config": string(c), "Script": script,
		"RuntimeJS": packed[0], "RuntimeWASM": packed[1], "Model": packed[2],
	})
}

// pack compresses and encodes data for the page.
func pack(data []byte) (string, error) {
	var b bytes.Buffer
	e := base64.NewEncoder(base64.StdEncoding, &b)
	z, err := gzip.NewWriterLevel(e, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := z.Write(data); err != nil {
		return "", err
	}
	if err := z.Close(); err != nil {
		return "", err
	}
	if err := e.Close(); err != nil {
		return "", err
	}
	return b.String(), nil
}
