package serve

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/sheet"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/trained"
)

// model opens the run that a query names by its digest or the beginning of it.
func (s *Server) model(digest string) (*trained.Model, error) {
	if digest == "" {
		return nil, wrong("which run? its digest is missing")
	}
	m, err := trained.Find(s.o.Store, digest)
	if err != nil {
		return nil, &problem{http.StatusNotFound, err}
	}
	return m, nil
}

// setting is a named value of a run's spec.
type setting struct{ Name, Value string }

// settings flattens what a run's digest hashes.
func settings(raw json.RawMessage) ([]setting, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	var all []setting
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(strings.TrimPrefix(name+"."+k, "."), v[k])
			}
		case []any:
			for i, e := range v {
				walk(fmt.Sprintf("%s[%d]", name, i+1), e)
			}
		default:
			all = append(all, setting{name, fmt.Sprint(v)})
		}
	}
	walk("", v)
	return all, nil
}

// history draws a run's losses over its epochs, less the least that they can be:
// validation on domains, training dashed.
func history(title string, h *store.History, least float64, domains []string) *plot.Drawing {
	l := plot.Lines{Title: title, X: "epoch", Y: plot.LossLabel, Dots: len(h.Epochs) < 30}
	for _, d := range domains {
		c := plot.Curve{Name: d}
		if d == h.Target {
			c.Name += " (target)"
		}
		for i, e := range h.Epochs {
			if v, ok := e.Validation[d]; ok {
				c.Points = append(c.Points, [2]float64{float64(i + 1), v.Loss - least})
			}
		}
		if len(c.Points) > 0 {
			l.Curves = append(l.Curves, c)
		}
	}
	t := plot.Curve{Name: "training", Dashed: true}
	for i, e := range h.Epochs {
		t.Points = append(t.Points, [2]float64{float64(i + 1), e.TrainLoss - least})
	}
	l.Curves = append(l.Curves, t)
	l.Marks = plot.EpochTicks(len(h.Epochs))
	return l.Draw()
}

// run shows one run.
func (s *Server) run(w http.ResponseWriter, r *http.Request) error {
	if digest := r.FormValue("digest"); len(digest) == 64 && !s.o.Store.HasRun(digest) {
		_, attempts, err := s.look.take(s.o.Store)
		if err != nil {
			return err
		}
		if a, ok := attempts[digest]; ok {
			return s.unfinished(w, r, a)
		}
	}
	m, err := s.model(r.FormValue("digest"))
	if err != nil {
		return err
	}
	all, err := settings(m.Manifest.Spec)
	if err != nil {
		return err
	}
	// Of many domains the target and some beside it are drawn; the table has all.
	var domains []string
	type score struct{ Domain, Loss, Dice string }
	var scores []score
	best := m.History.Epochs[m.History.Best-1]
	least := backend.LeastLoss(m.Spec.Loss, m.Spec.Network.Classes)
	for _, v := range m.Spec.Validation {
		domains = append(domains, v.Name)
		if e, ok := best.Validation[v.Name]; ok {
			scores = append(scores, score{v.Name, format.Loss(e.Loss - least), format.Digits(e.Dice, 3)})
		}
	}
	const most = 6
	drawnDomains := domains
	if len(domains) > most {
		i := max(0, slices.Index(domains, m.Spec.Target))
		from := max(0, min(i-most/2, len(domains)-most))
		drawnDomains = domains[from : from+most]
	}
	domain := r.FormValue("domain")
	if domain == "" {
		domain = m.Spec.Target
	}
	var domainOptions []option
	count := 0
	for _, v := range m.Spec.Validation {
		domainOptions = append(domainOptions, option{v.Name, v.Name, v.Name == domain})
		if v.Name == domain {
			if ready, err := dataset.Find(s.o.Store.Root(), v.Digest); err == nil {
				count = ready.Count
			}
		}
	}
	image, _ := strconv.Atoi(r.FormValue("image"))
	image = max(0, min(image, count-1))
	mf := m.Manifest
	provenance := []setting{
		{"run", m.Digest}, {"study", mf.Study}, {"study's digest", mf.StudyDigest}, {"refocus", mf.Harness},
		{"backend", strings.TrimSpace(mf.Backend.Name + " " + mf.Backend.Version)}, {"numerics", mf.Backend.Numerics + ", determinism claim: " + mf.Backend.Determinism},
		{"precision", mf.Backend.Precision}, {"device", mf.Backend.Device}, {"backend's executable", mf.Backend.SHA256},
		{"host", strings.Join([]string{mf.Host.Name, mf.Host.OS, mf.Host.CPU}, ", ")},
		{"started", mf.Started.Format("2006-01-02 15:04:05")}, {"finished", mf.Finished.Format("2006-01-02 15:04:05")},
		{"training", format.Digits(mf.TrainSeconds, 3) + " s"}, {"validation", format.Digits(mf.EvaluateSeconds, 3) + " s"}, {"restarts", strconv.Itoa(mf.Restarts)},
	}
	provenance = slices.DeleteFunc(provenance, func(s setting) bool { return s.Value == "" })
	picture := url.Values{"run": {m.Digest}, "domain": {domain}, "image": {strconv.Itoa(image)}}
	return s.show(w, r, "run.html", "study", mf.ID, map[string]any{
		"Digest": m.Digest, "Name": m.String(), "Stage": m.History.Stage, "Best": m.History.Best, "Epochs": len(m.History.Epochs), "Target": m.Spec.Target,
		"History":  drawn(history("Losses of "+mf.ID, m.History, least, drawnDomains), "Validation after every epoch, and the mean training loss (dashed). The weights of epoch "+strconv.Itoa(m.History.Best)+" are kept."),
		"Scores":   scores,
		"Settings": all, "Provenance": provenance, "Notes": mf.Notes, "Parent": m.Spec.Parent,
		"Domains": domainOptions, "Domain": domain, "Image": image, "Count": count, "Last": max(0, count-1), "Picture": "tile.png?" + picture.Encode(),
		"Export": s.shell("export", m.Digest[:12], "-o", "model.onnx"), "Reproduce": s.reproduces(r, m.Digest),
	})
}

// reproduces is the command that makes a run, with its study; empty where none that is
// known has it.
func (s *Server) reproduces(r *http.Request, digest string) string {
	all, _ := s.studies.list(r.Context())
	for _, l := range all {
		if st, err := s.studies.get(r.Context(), l.ID); err == nil && st.byDigest[digest] != nil {
			return s.command(st)
		}
	}
	return ""
}

// tile is a picture of a validation image: with the label's outline, and with what
// a run predicts.
func (s *Server) tile(w http.ResponseWriter, r *http.Request) error {
	i, err := strconv.Atoi(r.FormValue("image"))
	if err != nil {
		return wrong("image must be a whole number")
	}
	var tile sheet.Tile
	var pixel float64
	read := func(digest string, draw func(images *dataset.Images) error) error {
		ready, err := dataset.Find(s.o.Store.Root(), digest)
		if errors.Is(err, fs.ErrNotExist) {
			return notFound("these images are not in the store")
		} else if err != nil {
			return err
		}
		if i < 0 || i >= ready.Count {
			return notFound("there is no image %d: the set has %d, from 0", i, ready.Count)
		}
		images, err := ready.Open()
		if err != nil {
			return err
		}
		defer images.Close()
		pixel = ready.PixelSize
		return draw(images)
	}
	if digest := r.FormValue("run"); digest != "" {
		m, err := s.model(digest)
		if err != nil {
			return err
		}
		set := ""
		for _, v := range m.Spec.Validation {
			if v.Name == r.FormValue("domain") {
				set = v.Digest
			}
		}
		if set == "" {
			return notFound("the run was not validated on %q", r.FormValue("domain"))
		}
		err = read(set, func(images *dataset.Images) error {
			return s.process.with(func(b backend.Backend) (err error) {
				tile, err = m.Tile(r.Context(), b, images, i)
				return err
			})
		})
		if err != nil {
			return err
		}
	} else {
		set, err := s.set(r)
		if err != nil {
			return err
		}
		err = read(set, func(images *dataset.Images) error {
			size := images.Height * images.Width
			tile = sheet.Tile{H: images.Height, W: images.Width, Pixels: make([]float32, size)}
			if r.FormValue("label") != "no" {
				tile.Label = make([]uint8, size)
				if err := images.Label(i, tile.Label); err != nil {
					return err
				}
			}
			return images.Image(i, tile.Pixels)
		})
		if err != nil {
			return err
		}
	}
	// Whole pixels of the image on whole pixels of the picture.
	side := max(tile.H, tile.W)
	im, err := sheet.Draw([]sheet.Tile{tile}, sheet.Options{PixelSize: pixel, Side: side * max(1, 480/side)})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "private, max-age=3600")
	return png.Encode(w, im)
}

// export sends a run's certified files as one ZIP.
func (s *Server) export(w http.ResponseWriter, r *http.Request) error {
	m, err := s.model(r.URL.Query().Get("run"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.temp, "export")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = s.process.with(func(b backend.Backend) error {
		_, err := m.Export(r.Context(), b, filepath.Join(dir, "model.onnx"), trained.ExportOptions{})
		return err
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		f, err := z.Create(e.Name())
		if err != nil {
			return err
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", `attachment; filename="`+m.Digest[:12]+`.zip"`)
	_, err = w.Write(b.Bytes())
	return err
}
