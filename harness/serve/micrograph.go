package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/stats"
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
	progress.None
	ID, Name, Path, Model string
	Page                  int

	mu          sync.Mutex
	done, total int
	err         error
	seg         *predict.Segmented
	notes       []string // on the model
	minDiameter float64  // nm, what the command line would take
	cancel      context.CancelFunc
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
	u := &upload{ID: hex.EncodeToString(random), Name: name, Model: model, Page: index, total: 1}
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
		u.mu.Lock()
		defer u.mu.Unlock()
		u.err = err
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

// Begin, Add and Skip make it a progress.Meter that counts tiles.
func (u *upload) Begin(_, _ string, total float64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done, u.total = 0, int(total)
}

func (u *upload) Add(n float64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done += int(n)
}

func (u *upload) Skip(n float64) { u.Add(n) }

func (u *upload) segment(ctx context.Context, s *Server, o predict.Options) error {
	m, err := predict.Load(u.Model, predict.LoadOptions{})
	if err != nil {
		return err
	}
	o.Progress = u
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
		if err != nil {
			return err
		}
		seg.Result.Source, seg.Result.Name = u.Name, strings.TrimSuffix(u.Name, filepath.Ext(u.Name))
		u.mu.Lock()
		defer u.mu.Unlock()
		u.seg, u.notes = seg, m.Notes
		if m.PixelSize > 0 {
			u.minDiameter = predict.DefaultMinDiameter
		}
		return nil
	})
}

// particleOptions are those of a query.
func (u *upload) particleOptions(r *http.Request) (predict.ParticleOptions, error) {
	o := predict.ParticleOptions{Threshold: 0.5, MinDiameter: u.minDiameter}
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
	o.Split, o.FillHoles, o.ExcludeBorder = q.Get("split") != "", q.Get("fill_holes") != "", q.Get("exclude_border") != ""
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
	u.mu.Lock()
	done, total, failed, ready := u.done, u.total, u.err, u.seg != nil
	u.mu.Unlock()
	if failed == nil && !ready {
		return writeJSON(w, map[string]any{"done": done, "total": total})
	}
	_, m, err := u.measured(r)
	if err != nil {
		return err
	}
	res := &m.Result
	var px, nm []float64
	for _, p := range res.Particles {
		px = append(px, p.Diameter)
		if p.DiameterNM != nil {
			nm = append(nm, *p.DiameterNM)
		}
	}
	unit, sizes := "pixels", px
	if res.PixelHeight > 0 {
		unit, sizes = "nm", nm
	}
	median := ""
	if len(sizes) > 0 {
		median = format.Digits(stats.Median(sizes), 3) + " " + unit
	}
	var outputs []string
	for _, o := range m.Outputs() {
		outputs = append(outputs, o.Suffix)
	}
	return writeJSON(w, map[string]any{
		"name": u.Name, "particles": res.Particles, "notes": append(slices.Clone(u.notes), res.Notes...), "size": format.Size(res.H, res.W),
		"pixel": res.Calibration(), "unit": unit, "median": median, "min_diameter": u.minDiameter, "calibrated": res.PixelHeight > 0,
		"histogram": template.HTML(plot.Sizes("Sizes of particles", "equivalent diameter in "+unit, sizes).Inline()),
		"outputs":   append(outputs, ".particles.csv"),
	})
}

// segmentationFile is a picture or a file of a micrograph's results.
func (s *Server) segmentationFile(w http.ResponseWriter, r *http.Request) error {
	u, err := s.uploads.get(r.PathValue("id"))
	if err != nil {
		return err
	}
	seg, m, err := u.measured(r)
	if err != nil {
		return err
	}
	name := r.PathValue("file")
	switch name {
	case "view.png":
		im, labels := shrunk(seg.Image, m.Labels, viewSide)
		w.Header().Set("Content-Type", "image/png")
		return predict.WriteOverlay(w, im, labels)
	case "image.png":
		im, labels := shrunk(seg.Image, make([]int32, len(m.Labels)), viewSide)
		w.Header().Set("Content-Type", "image/png")
		return predict.WriteOverlay(w, im, labels)
	case "probability.png":
		p := predict.Image{H: seg.Image.H, W: seg.Image.W, Pixels: seg.Segmentation.Probability}
		p, _ = shrunk(p, m.Labels, viewSide)
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

// shrunk takes every k-th pixel of large images, the mean of those around it: what a
// screen shows.
func shrunk(im predict.Image, labels []int32, side int) (predict.Image, []int32) {
	k := (max(im.H, im.W) + side - 1) / side
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
