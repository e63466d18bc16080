package outline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// COCO is a file of annotations in COCO's format.
type COCO struct {
	Images []COCOImage
	// Categories are the names of what is annotated, in the order of the file.
	Categories []string
}

// COCOImage is an image of which a file has annotations, maybe none.
type COCOImage struct {
	File   string // its name as the annotations have it
	H, W   int    // 0 where the file does not say
	Shapes []Shape
}

// Shape is one annotation.
type Shape struct {
	Category int  // index into COCO.Categories
	Crowd    bool // an area of many that are not told apart ("iscrowd")
	outlines [][]Point
	runs     []int // of pixels outside and inside, by turns, column by column
	h, w     int   // of runs
}

// Fill calls set for every pixel of an image of h rows and w columns that lies in
// the shape. A pixel may be told more than once.
func (s Shape) Fill(h, w int, set func(pixel int)) error {
	for _, o := range s.outlines { // COCO's polygons are united
		fill([][]Point{o}, h, w, set)
	}
	if s.runs == nil {
		return nil
	}
	if s.h != h || s.w != w {
		return fmt.Errorf("a mask of %d×%d pixels for an image of %d×%d", s.h, s.w, h, w)
	}
	at := 0
	for i, n := range s.runs {
		if i%2 == 1 {
			for p := at; p < at+n; p++ {
				set(p%h*w + p/h)
			}
		}
		at += n
	}
	return nil
}

// maxCOCO bounds the bytes of a file.
const maxCOCO = 1 << 30

// ReadCOCO reads annotations.
func ReadCOCO(r io.Reader) (*COCO, error) {
	var f struct {
		Images []struct {
			ID     int64  `json:"id"`
			File   string `json:"file_name"`
			Height int    `json:"height"`
			Width  int    `json:"width"`
		} `json:"images"`
		Categories []struct {
			ID   int64  `json:"id"`
			Name string `json:"name"`
		} `json:"categories"`
		Annotations []struct {
			Image        int64           `json:"image_id"`
			Category     int64           `json:"category_id"`
			Crowd        int             `json:"iscrowd"`
			Segmentation json.RawMessage `json:"segmentation"`
		} `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxCOCO)).Decode(&f); err != nil {
		return nil, fmt.Errorf("not annotations in COCO's format: %w", err)
	}
	if len(f.Images) == 0 {
		return nil, errors.New(`not annotations in COCO's format: no "images"`)
	}
	c := &COCO{}
	image, category := map[int64]int{}, map[int64]int{}
	for i, im := range f.Images {
		if _, twice := image[im.ID]; twice {
			return nil, fmt.Errorf("two images have the id %d", im.ID)
		}
		image[im.ID] = i
		c.Images = append(c.Images, COCOImage{File: im.File, H: im.Height, W: im.Width})
	}
	for i, k := range f.Categories {
		category[k.ID] = i
		c.Categories = append(c.Categories, k.Name)
	}
	for i, a := range f.Annotations {
		at, ok := image[a.Image]
		k, known := category[a.Category]
		if !ok || !known {
			return nil, fmt.Errorf("annotation %d is of image %d and category %d, which the file does not list", i, a.Image, a.Category)
		}
		s, err := shape(a.Segmentation)
		if err != nil {
			return nil, fmt.Errorf("annotation %d, of %s: %w", i, c.Images[at].File, err)
		}
		s.Category, s.Crowd = k, a.Crowd != 0
		c.Images[at].Shapes = append(c.Images[at].Shapes, s)
	}
	return c, nil
}

func shape(b json.RawMessage) (Shape, error) {
	var s Shape
	var polygons [][]float64
	if json.Unmarshal(b, &polygons) == nil && len(polygons) > 0 {
		for _, v := range polygons {
			if len(v) < 6 || len(v)%2 != 0 {
				return s, fmt.Errorf("a polygon of %d numbers", len(v))
			}
			var o []Point
			for i := 0; i < len(v); i += 2 {
				p := Point{v[i], v[i+1]}
				if bad(p) {
					return s, fmt.Errorf("a corner lies at %v", p)
				}
				o = append(o, p)
			}
			s.outlines = append(s.outlines, o)
		}
		return s, nil
	}
	var mask struct {
		Size   [2]int          `json:"size"`
		Counts json.RawMessage `json:"counts"`
	}
	if err := json.Unmarshal(b, &mask); err != nil || mask.Counts == nil {
		return s, errors.New("it has no outline: want polygons or run lengths as its segmentation")
	}
	s.h, s.w = mask.Size[0], mask.Size[1]
	var text string
	if json.Unmarshal(mask.Counts, &text) == nil {
		var err error
		if s.runs, err = unpack(text); err != nil {
			return s, err
		}
	} else if err := json.Unmarshal(mask.Counts, &s.runs); err != nil {
		return s, fmt.Errorf("run lengths: %w", err)
	}
	const maxSide = 1 << 15
	if s.h < 1 || s.w < 1 || s.h > maxSide || s.w > maxSide {
		return s, fmt.Errorf("a mask of %d×%d pixels", s.h, s.w)
	}
	total := 0
	for _, n := range s.runs {
		if n < 0 || n > s.h*s.w-total {
			return s, fmt.Errorf("run lengths that do not fill %d×%d pixels", s.h, s.w)
		}
		total += n
	}
	if total != s.h*s.w {
		return s, fmt.Errorf("run lengths that fill %d of %d×%d pixels", total, s.h, s.w)
	}
	return s, nil
}

// unpack reads run lengths in COCO's compressed form (rleFrString of maskApi.c): 5
// bits a character, from the third number on the difference to the one before the
// last.
func unpack(s string) ([]int, error) {
	var runs []int
	for i := 0; i < len(s); {
		var x int64
		for k := 0; ; k++ {
			if i == len(s) || k > 8 || s[i] < 48 || s[i] > 111 {
				return nil, errors.New("damaged run lengths")
			}
			c := int64(s[i]) - 48
			i++
			x |= c & 31 << (5 * k)
			if c&32 == 0 {
				if c&16 != 0 {
					x |= -1 << (5 * (k + 1))
				}
				break
			}
		}
		if len(runs) > 2 {
			x += int64(runs[len(runs)-2])
		}
		runs = append(runs, int(x))
	}
	return runs, nil
}
