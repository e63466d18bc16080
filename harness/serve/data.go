package serve

import (
	"errors"
	"image/png"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/sheet"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// set is the data set that a request names by study, domain and split.
func (s *Server) set(r *http.Request) (digest string, err error) {
	st, _, err := s.chosen(r)
	if err != nil {
		return "", err
	}
	domain, split := r.FormValue("domain"), r.FormValue("split")
	if domain == "" {
		domain = st.Plan.Domains[0].Key
	}
	if split == "" {
		split = dataset.Validation
	}
	for _, d := range st.Data.Simulated {
		if d.Domain.Key == domain && d.Source.Split == split {
			return d.Source.Digest(), nil
		}
	}
	for _, d := range st.Data.Own {
		if d.Domain.Key == domain {
			if split == dataset.Train {
				return d.Train.Digest, nil
			}
			return d.Validation.Digest, nil
		}
	}
	return "", notFound("%s has no %s images of %q", st.Title(), split, domain)
}

// perSheet is how many images are shown at a time.
const perSheet = 24

// data browses the images of a study's domains.
func (s *Server) data(w http.ResponseWriter, r *http.Request) error {
	st, all, err := s.chosen(r)
	if err != nil {
		return err
	}
	q := url.Values{"study": {st.ID}, "domain": {r.FormValue("domain")}, "split": {r.FormValue("split")}}
	if q.Get("domain") == "" {
		q.Set("domain", st.Plan.Domains[0].Key)
	}
	if q.Get("split") == "" {
		q.Set("split", dataset.Validation)
	}
	body := map[string]any{"ID": st.ID, "Studies": studyOptions(all, st)}
	var domains, splits []option
	for i := range st.Plan.Domains {
		d := &st.Plan.Domains[i]
		domains = append(domains, option{d.Key, d.Name, d.Key == q.Get("domain")})
	}
	for _, x := range []string{dataset.Train, dataset.Validation} {
		splits = append(splits, option{x, x, x == q.Get("split")})
	}
	body["Domains"], body["Splits"] = domains, splits
	digest, err := s.set(r)
	if err != nil {
		return err
	}
	ready, err := dataset.Find(s.o.Store.Root(), digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		body["Missing"] = "These images have not been simulated yet; refocus data makes them."
		return s.show(w, r, "data.html", "data", "Images of "+st.Title(), body)
	case err != nil:
		return err
	}
	image, _ := strconv.Atoi(r.FormValue("image"))
	image = max(0, min(image, ready.Count-1))
	label := r.FormValue("label")
	q.Set("label", label)
	body["Labels"] = []option{{"", "with the label's outline", label != "no"}, {"no", "image alone", label == "no"}}
	body["Count"], body["Image"], body["Last"] = ready.Count, image, ready.Count-1
	body["Size"] = format.Size(ready.Height, ready.Width) + " pixels"
	if ready.PixelSize > 0 {
		body["Size"] = body["Size"].(string) + " of " + format.PixelSize(ready.PixelSize)
	}
	q.Set("image", strconv.Itoa(image))
	body["Picture"] = "tile.png?" + q.Encode()
	q.Set("from", strconv.Itoa(image/perSheet*perSheet))
	body["Sheet"] = "sheet.png?" + q.Encode()
	body["SheetFrom"], body["SheetTo"] = image/perSheet*perSheet, min(ready.Count, image/perSheet*perSheet+perSheet)-1
	body["Digest"] = digest
	zoom := r.FormValue("zoom")
	var zooms []option
	for _, z := range []string{"1", "2", "4", "8"} {
		zooms = append(zooms, option{z, z + "×", z == zoom || zoom == "" && z == "1"})
	}
	body["Zooms"], body["Zoom"] = zooms, max(1, min(8, atoi(zoom)))
	return s.show(w, r, "data.html", "data", "Images of "+st.Title(), body)
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// sheet is a contact sheet of a set from one image on.
func (s *Server) sheet(w http.ResponseWriter, r *http.Request) error {
	digest, err := s.set(r)
	if err != nil {
		return err
	}
	ready, err := dataset.Find(s.o.Store.Root(), digest)
	if err != nil {
		return &problem{http.StatusNotFound, err}
	}
	images, err := ready.Open()
	if err != nil {
		return err
	}
	defer images.Close()
	from := max(0, atoi(r.FormValue("from")))
	var tiles []sheet.Tile
	for i := from; i < min(ready.Count, from+perSheet); i++ {
		size := ready.Height * ready.Width
		t := sheet.Tile{H: ready.Height, W: ready.Width, Pixels: make([]float32, size), Caption: strconv.Itoa(i)}
		if err := images.Image(i, t.Pixels); err != nil {
			return err
		}
		if r.FormValue("label") != "no" {
			t.Label = make([]uint8, size)
			if err := images.Label(i, t.Label); err != nil {
				return err
			}
		}
		tiles = append(tiles, t)
	}
	if len(tiles) == 0 {
		return notFound("the set has %d images", ready.Count)
	}
	im, err := sheet.Draw(tiles, sheet.Options{PixelSize: ready.PixelSize, Side: 130, Columns: 8})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "private, max-age=3600")
	return png.Encode(w, im)
}
