package serve

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/report/plot"
)

const (
	mostUploads = 6       // micrographs that are kept, the oldest goes
	mostBytes   = 4 << 30 // of one
)

// uploads are the micrographs that were dropped.
type uploads struct {
	s   *Server
	mu  sync.Mutex
	all []*upload
}

// upload is a micrograph and what has become of it.
type upload struct {
	ID, Name, Path, Model string
	Page                  int

	mu          sync.Mutex
	changed     chan struct{} // closed, and another made, when any of the following changes
	done, total int
	height      int // of what is drawn meanwhile, in pixels
	width       int
	preview     []byte // the image, as a PNG
	parts       []drawnPart
	err         error
	seg         *predict.Segmented
	notes       []string // on the model
	minDiameter float64  // nm, what the command line would take
	cancel      context.CancelFunc
}

// drawnPart is a part of a micrograph whose prediction is there: where it lies in the
// preview, and its particles as a PNG that is transparent elsewhere.
type drawnPart struct {
	X   int `json:"x"`
	Y   int `json:"y"`
	W   int `json:"w"`
	H   int `json:"h"`
	png []byte
}

// change changes what others wait for.
func (u *upload) change(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
	close(u.changed)
	u.changed = make(chan struct{})
}

// models are the files of models that can be chosen.
func (s *Server) models() []option {
	var all []option
	for _, m := range s.o.Models {
		all = append(all, option{Value: m, Text: m})
	}
	found, _ := filepath.Glob(filepath.Join(s.o.Store.Root(), "reports", "*", "*.onnx"))
	slices.Sort(found)
	for _, f := range found {
		if rel, err := filepath.Rel(s.o.Store.Root(), f); err == nil && !strings.HasSuffix(f, "-standardizing.onnx") {
			all = append(all, option{Value: f, Text: rel})
		}
	}
	return all
}

func (s *Server) micrograph(w http.ResponseWriter, r *http.Request) error {
	return s.show(w, r, "micrograph.html", "micrograph", "Segment a micrograph", map[string]any{"Models": s.models()})
}

// upload takes a file's bytes and begins to segment it.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	model := q.Get("model")
	if !slices.ContainsFunc(s.models(), func(o option) bool { return o.Value == model }) {
		return wrong("there is no model %q here; refocus reproduce exports one, refocus serve --model names others", model)
	}
	o := predict.Options{Flatten: q.Get("flatten") != ""}
	if v := q.Get("pixel_size"); v != "" {
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || !(x > 0 && x < 1e6) {
			return wrong("the pixel size must be a number of Å above 0, not %q", v)
		}
		o.PixelSize = x
	}
	index := 0
	if v := q.Get("page"); v != "" {
		x, err := strconv.Atoi(v)
		if err != nil || x < 0 {
			return wrong("the image's number in the file must be a whole number from 0 on, not %q", v)
		}
		index = x
	}
	name := filepath.Base(filepath.Clean("/" + strings.ReplaceAll(q.Get("name"), `\`, "/")))
	if name == "/" || name == "." || len(name) > 200 || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return wrong("that is no name of a file")
	}
	random := make([]byte, 8)
	rand.Read(random)
	u := &upload{ID: hex.EncodeToString(random), Name: name, Model: model, Page: index, changed: make(chan struct{}), total: 1}
	dir := filepath.Join(s.temp, u.ID)
	if err := files.Mkdir(dir); err != nil {
		return err
	}
	u.Path = filepath.Join(dir, name)
	body := http.MaxBytesReader(w, r.Body, mostBytes)
	if _, err := files.Create(u.Path, func(to io.Writer) error { _, err := io.Copy(to, body); return err }); err != nil {
		os.RemoveAll(dir)
		return err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	u.cancel = cancel
	s.uploads.add(u)
	go func() {
		defer cancel()
		err := u.segment(ctx, s, o)
		u.change(func() { u.err = err })
	}()
	return writeJSON(w, map[string]any{"id": u.ID})
}

func (t *uploads) add(u *upload) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, u)
	for len(t.all) > mostUploads {
		old := t.all[0]
		old.cancel()
		os.RemoveAll(filepath.Dir(old.Path))
		t.all = t.all[1:]
	}
}

func (t *uploads) get(id string) (*upload, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.all {
		if u.ID == id {
			return u, nil
		}
	}
	return nil, notFound("this micrograph is no longer kept: the workbench keeps the last %d, until it ends; drop the file again", mostUploads)
}

// part draws what is predicted, as far as it is.
func (u *upload) part(p predict.Part) error {
	k := shrinking(p.Image)
	var b bytes.Buffer
	if p.Done == 0 {
		im, labels := shrunk(p.Image, make([]int32, len(p.Image.Pixels)), k)
		if err := predict.WriteOverlay(&b, im, labels); err != nil {
			return err
		}
		u.change(func() { u.total, u.height, u.width, u.preview = p.Total, im.H, im.W, b.Bytes() })
		return nil
	}
	// A pixel of the preview stands for the one in the middle of k by k.
	within := func(low, high, of int) (from, to int) {
		at := func(v int) int { return max(0, v-k/2+k-1) / k }
		return min(at(low), of), min(at(high), of)
	}
	d := drawnPart{}
	bottom, right := 0, 0
	d.Y, bottom = within(p.Top, p.Bottom, max(1, p.Image.H/k))
	d.X, right = within(p.Left, p.Right, max(1, p.Image.W/k))
	d.H, d.W = bottom-d.Y, right-d.X
	if d.H > 0 && d.W > 0 {
		im := image.NewNRGBA(image.Rect(0, 0, d.W, d.H))
		for y := range d.H {
			for x := range d.W {
				row, column := min(p.Image.H-1, (d.Y+y)*k+k/2), min(p.Image.W-1, (d.X+x)*k+k/2)
				if p.Probability[row*p.Image.W+column] > predict.DefaultThreshold {
					im.SetNRGBA(x, y, color.NRGBA{255, 140, 0, 90})
				}
			}
		}
		if err := png.Encode(&b, im); err != nil {
			return err
		}
	}
	d.png = b.Bytes()
	u.change(func() { u.done, u.parts = p.Done, append(u.parts, d) })
	return nil
}

func (u *upload) segment(ctx context.Context, s *Server, o predict.Options) error {
	m, err := predict.Load(u.Model, predict.LoadOptions{})
	if err != nil {
		return err
	}
	var failed error
	o.Part = func(p predict.Part) {
		if err := u.part(p); err != nil && failed == nil {
			failed = err
		}
	}
	return s.process.with(func(b backend.Backend) error {
		session, err := b.Open(ctx, m.Graph, backend.Options{Threads: runtime.NumCPU()})
		if err != nil {
			return err
		}
		defer session.Close()
		seg, err := m.Image(ctx, u.Path, u.Page, func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
			p, err := session.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
			return p.F32, err
		}, o)
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
		seg.Result.Source, seg.Result.Name = u.Name, strings.TrimSuffix(u.Name, filepath.Ext(u.Name))
		u.change(func() {
			u.seg, u.notes = seg, m.Notes
			if m.PixelSize > 0 {
				u.minDiameter = predict.DefaultMinDiameter
			}
		})
		return nil
	})
}

// particleOptions are those of a query.
func (u *upload) particleOptions(r *http.Request) (predict.ParticleOptions, error) {
	o := predict.ParticleOptions{Threshold: predict.DefaultThreshold, MinDiameter: u.minDiameter}
	q := r.URL.Query()
	if v := q.Get("threshold"); v != "" {
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || !(x > 0 && x < 1) {
			return o, wrong("the threshold must lie between 0 and 1, not %q", v)
		}
		o.Threshold = x
	}
	if v := q.Get("min_diameter"); v != "" {
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || !(x >= 0 && x < 1e6) {
			return o, wrong("the least diameter must be a number of nm from 0 on, not %q", v)
		}
		o.MinDiameter = x
	}
	if v := q.Get("split"); v != "" { // how readily: 0 is not at all, and 1 − depth parts at necks so deep
		x, err := strconv.ParseFloat(v, 64)
		if err != nil || !(x >= 0 && x < 1) {
			return o, wrong("how readily touching particles are parted must be from 0 to below 1, not %q", v)
		}
		o.Split, o.SplitDepth = x > 0, 1-x
	}
	o.FillHoles, o.ExcludeBorder = q.Get("fill_holes") != "", q.Get("exclude_border") != ""
	return o, nil
}

func (u *upload) measured(r *http.Request) (*predict.Segmented, *predict.Measured, error) {
	u.mu.Lock()
	seg, err := u.seg, u.err
	u.mu.Unlock()
	if err != nil {
		return nil, nil, &problem{http.StatusUnprocessableEntity, fmt.Errorf("%s: %w", u.Name, err)}
	}
	if seg == nil {
		return nil, nil, wrong("the micrograph is not segmented yet")
	}
	o, err := u.particleOptions(r)
	if err != nil {
		return nil, nil, err
	}
	m, err := seg.Measure(o)
	return seg, m, err
}

// segmentation says how far a micrograph is, and what was found in it.
func (s *Server) segmentation(w http.ResponseWriter, r *http.Request) error {
	u, err := s.uploads.get(r.PathValue("id"))
	if err != nil {
		return err
	}
	// Who has seen some of the parts waits until there are more, and gets those only.
	known, wants := 0, r.URL.Query().Has("seen")
	if wants {
		if known, err = strconv.Atoi(r.FormValue("seen")); err != nil || known < 0 {
			return wrong("seen must be a number of parts, not %q", r.FormValue("seen"))
		}
	}
	answer := map[string]any{}
	timeout := time.After(10 * time.Second)
	for waits := wants; ; {
		u.mu.Lock()
		if len(u.parts) > known || u.seg != nil || u.err != nil || u.preview != nil && known == 0 {
			waits = false
		}
		changed, ready, failed := u.changed, u.seg != nil, u.err != nil
		answer["done"], answer["total"], answer["height"], answer["width"] = u.done, u.total, u.height, u.width
		if wants {
			answer["parts"] = append([]drawnPart{}, u.parts[min(known, len(u.parts)):]...)
		}
		u.mu.Unlock()
		if ready || failed {
			break
		}
		if !waits {
			return writeJSON(w, answer)
		}
		select {
		case <-changed:
		case <-timeout:
			waits = false
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
	_, m, err := u.measured(r)
	if err != nil {
		return err
	}
	res := &m.Result
	sizes, unit := res.Diameters()
	median := ""
	if d, unit := res.MedianDiameter(); !math.IsNaN(d) {
		median = format.Digits(d, 3) + " " + unit
	}
	var outputs []string
	for _, o := range m.Outputs() {
		outputs = append(outputs, o.Suffix)
	}
	for k, v := range map[string]any{
		"name": u.Name, "particles": res.Particles, "notes": append(slices.Clone(u.notes), res.Notes...), "size": format.Size(res.H, res.W),
		"pixel": res.Calibration(), "unit": unit, "median": median, "min_diameter": u.minDiameter, "calibrated": res.PixelHeight > 0,
		"histogram": template.HTML(plot.Sizes("Sizes of particles", "equivalent diameter in "+unit, sizes).Inline()),
		"outputs":   append(outputs, ".particles.csv"),
	} {
		answer[k] = v
	}
	return writeJSON(w, answer)
}

// segmentationFile is a picture or a file of a micrograph's results.
func (s *Server) segmentationFile(w http.ResponseWriter, r *http.Request) error {
	u, err := s.uploads.get(r.PathValue("id"))
	if err != nil {
		return err
	}
	name := r.PathValue("file")
	if got, err := u.drawing(name); got != nil || err != nil {
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "image/png")
		_, err = w.Write(got)
		return err
	}
	seg, m, err := u.measured(r)
	if err != nil {
		return err
	}
	switch name {
	case "view.png":
		im, labels := shrunk(seg.Image, m.Labels, shrinking(seg.Image))
		w.Header().Set("Content-Type", "image/png")
		return predict.WriteOverlay(w, im, labels)
	case "image.png":
		im, labels := shrunk(seg.Image, make([]int32, len(m.Labels)), shrinking(seg.Image))
		w.Header().Set("Content-Type", "image/png")
		return predict.WriteOverlay(w, im, labels)
	case "probability.png":
		p := predict.Image{H: seg.Image.H, W: seg.Image.W, Pixels: seg.Segmentation.Probability}
		p, _ = shrunk(p, m.Labels, shrinking(p))
		im := image.NewGray(image.Rect(0, 0, p.W, p.H))
		for y := range p.H {
			for x := range p.W {
				im.SetGray(x, y, color.Gray{uint8(255*p.Pixels[y*p.W+x] + 0.5)})
			}
		}
		w.Header().Set("Content-Type", "image/png")
		return png.Encode(w, im)
	}
	download := func(suffix string, write func(io.Writer) error) error {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", "attachment; filename*=UTF-8''"+escaped(m.Result.Name+suffix))
		return write(w)
	}
	if name == "particles.csv" {
		return download(".particles.csv", func(to io.Writer) error { return predict.WriteCSV(to, m.Result.Particles) })
	}
	for _, o := range m.Outputs() {
		if "file"+o.Suffix == name {
			return download(o.Suffix, o.Write)
		}
	}
	return notFound("there is no %q of a micrograph", name)
}

// drawing is a picture of what is drawn while the micrograph is segmented: "preview.png",
// or "part-0.png" and so on. Other names are none.
func (u *upload) drawing(name string) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	number, isPart := strings.CutPrefix(strings.TrimSuffix(name, ".png"), "part-")
	i, err := strconv.Atoi(number)
	switch {
	case name == "preview.png" && u.preview != nil:
		return u.preview, nil
	case isPart && err == nil && i >= 0 && i < len(u.parts) && len(u.parts[i].png) > 0:
		return u.parts[i].png, nil
	case name == "preview.png" || isPart:
		return nil, notFound("there is no %s yet", name)
	}
	return nil, nil
}

// escaped is a name for a header, as RFC 5987 has it.
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// viewSide is the most pixels a side of a picture to look at has.
const viewSide = 1600

// shrinking is how many pixels of an image, along each side, a pixel of its picture
// stands for.
func shrinking(im predict.Image) int { return (max(im.H, im.W) + viewSide - 1) / viewSide }

// shrunk takes every k-th pixel of large images, the mean of those around it: what a
// screen shows.
func shrunk(im predict.Image, labels []int32, k int) (predict.Image, []int32) {
	if k <= 1 {
		return im, labels
	}
	out := predict.Image{H: max(1, im.H/k), W: max(1, im.W/k)}
	out.Pixels = make([]float32, out.H*out.W)
	to := make([]int32, out.H*out.W)
	for y := range out.H {
		for x := range out.W {
			sum, n := 0.0, 0
			for dy := range min(k, im.H-y*k) {
				for dx := range min(k, im.W-x*k) {
					sum += float64(im.Pixels[(y*k+dy)*im.W+x*k+dx])
					n++
				}
			}
			out.Pixels[y*out.W+x] = float32(sum / float64(n))
			to[y*out.W+x] = labels[min(im.H-1, y*k+k/2)*im.W+min(im.W-1, x*k+k/2)]
		}
	}
	return out, to
}
