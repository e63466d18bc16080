package study

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// OwnData is a domain of the user's own labelled images.
type OwnData struct {
	// Images and Labels are files, "FILE:ARRAY" for one array of several, folders,
	// patterns ("s1/*.tif") or lists of them, relative to the spec's folder. Every
	// image is standardised to mean 0 and variance 1; labels are masks, regions of
	// ImageJ (.roi, .zip) or annotations in COCO's format (.json).
	Images Paths `json:"images"`
	Labels Paths `json:"labels"`
	// LabelKind is what the pixels of masks say: LabelClasses (the default),
	// LabelInstances or LabelMask.
	LabelKind string `json:"label_kind,omitempty"`
	// LabelValues has an entry for every class, in order: its value in the masks,
	// which is a whole number or a colour "#rrggbb", or a list of values. Left out,
	// the values are 0, 1, 2, …, or 0 and any other one.
	LabelValues Values `json:"label_values,omitempty"`
	// Void is the value of pixels to leave out. With Crop, patches that have such
	// pixels are not cut.
	Void Value `json:"void,omitempty"`
	// Crop is the side in pixels, a multiple of 16, of the patches that are cut
	// from the images, which then may have any size: those to train on at random
	// places, new ones every epoch, those to validate on so that they cover the
	// images. Numbers of images of a run are then numbers of patches. 0 takes
	// images as they are.
	Crop int `json:"crop,omitempty"`
	// Flatten divides every image by its illumination, as predict --flatten does.
	Flatten bool `json:"flatten,omitempty"`
	// TrainImages and ValidationImages split the images: training takes the first
	// ones, validation the last. A 0 takes what the other leaves; where both are
	// 0, ValidationFraction of them validates.
	TrainImages      int `json:"train_images"`
	ValidationImages int `json:"validation_images"`
	// ValidationFraction of the images, 0 < f < 1, used where both counts are 0.
	// [choice: 0.2]
	ValidationFraction float64 `json:"validation_fraction"`
	// Shuffle takes images, or groups, in an order that the study's seed and the
	// domain's name determine, before they are split.
	Shuffle bool `json:"shuffle,omitempty"`
	// GroupBy keeps the images of a session or a sample on one side of the split:
	// "file" or "folder" for those of one, or a regular expression whose
	// parenthesis picks the group's name from a file's path.
	GroupBy string `json:"group_by,omitempty"`
	// Folds divides the images, or groups, into that many parts, of which number
	// Fold, from 1, validates.
	Folds int `json:"folds,omitempty"`
	Fold  int `json:"fold,omitempty"`
	// PixelSize in Å, 0 for unknown; recorded with the exported model.
	PixelSize float64 `json:"pixel_size"`
	// Size is the side of the images in pixels, a multiple of 16; 0 takes what
	// the file has. Given, it is checked, and estimates of work use it.
	Size int `json:"size"`
}

// Kinds of label masks.
const (
	LabelClasses   = "classes"   // a pixel's value says its class
	LabelInstances = "instances" // particles are numbered from 1
	LabelMask      = "mask"      // particle from half the greatest value on
)

func (o OwnData) check(c *checker, table []string, classes int) {
	key := func(k string) []string { return append(slices.Clone(table), k) }
	for _, p := range []struct {
		key   string
		paths Paths
	}{{"images", o.Images}, {"labels", o.Labels}} {
		if len(p.paths) == 0 || slices.Contains(p.paths, "") {
			c.fail(key(p.key), "is missing: the file with the %s", p.key)
		}
	}
	c.oneOf(key("label_kind"), o.LabelKind, "", LabelClasses, LabelInstances, LabelMask)
	if kind := o.LabelKind; kind == LabelInstances || kind == LabelMask {
		if len(o.LabelValues) > 0 {
			c.fail(key("label_values"), "cannot be combined with label_kind = %q", kind)
		}
		if classes != 2 {
			c.fail(key("label_kind"), "%q tells two classes apart, network.classes has %d", kind, classes)
		}
	}
	if n := len(o.LabelValues); n > 0 && n != classes {
		c.fail(key("label_values"), "has %d entries for %d classes", n, classes)
	}
	seen := map[Value]bool{o.Void: o.Void != ""}
	for _, list := range o.LabelValues {
		for _, v := range list {
			if seen[v] {
				c.fail(key("label_values"), "has %s twice, or as the void", v)
			}
			seen[v] = true
			v.check(c, key("label_values"))
		}
	}
	if o.Void != "" {
		o.Void.check(c, key("void"))
	}
	c.integer(key("train_images"), o.TrainImages, 0, maxImages)
	c.integer(key("validation_images"), o.ValidationImages, 0, maxImages)
	counted := o.TrainImages+o.ValidationImages != 0
	if counted && o.ValidationFraction != 0 {
		c.fail(key("validation_fraction"), "cannot be combined with train_images or validation_images")
	}
	if !(o.ValidationFraction >= 0 && o.ValidationFraction < 1) {
		c.fail(key("validation_fraction"), "must be at least 0 and less than 1, but is %g", o.ValidationFraction)
	}
	if o.GroupBy != "" {
		if counted {
			c.fail(key("group_by"), "cannot be combined with train_images or validation_images, which might divide a group")
		}
		if o.GroupBy != "file" && o.GroupBy != "folder" {
			if r, err := regexp.Compile(o.GroupBy); err != nil {
				c.fail(key("group_by"), `is neither "file" nor "folder" nor a regular expression: %v`, err)
			} else if r.NumSubexp() != 1 {
				c.fail(key("group_by"), `must be "file", "folder" or a regular expression with one parenthesis around what names the group, such as "(session\\d+)"`)
			}
		}
	}
	switch {
	case o.Folds != 0:
		c.integer(key("folds"), o.Folds, 2, 100)
		c.integer(key("fold"), o.Fold, 1, max(o.Folds, 1))
		if counted {
			c.fail(key("folds"), "cannot be combined with train_images or validation_images")
		}
	case o.Fold != 0:
		c.fail(key("fold"), "belongs to folds, which is not given")
	}
	c.number(key("pixel_size"), o.PixelSize, 0, 1e3)
	c.integer(key("size"), o.Size, 0, maxPixels)
	c.integer(key("crop"), o.Crop, 0, maxPixels)
	if o.Size%16 != 0 {
		c.fail(key("size"), "must be a multiple of 16, which the network halves four times, but is %d", o.Size)
	}
	if o.Crop%16 != 0 {
		c.fail(key("crop"), "must be a multiple of 16, which the network halves four times, but is %d", o.Crop)
	}
	if o.Crop != 0 && o.Size != 0 {
		c.fail(key("size"), "cannot be combined with crop, which is the size")
	}
}

// resolve makes paths relative to a folder.
func (o *OwnData) resolve(dir string) {
	for _, paths := range []*Paths{&o.Images, &o.Labels} {
		*paths = slices.Clone(*paths)
		for i, p := range *paths {
			if !filepath.IsAbs(p) {
				(*paths)[i] = filepath.Join(dir, p)
			}
		}
	}
}

// setter is a field that decodes itself, from what TOML has. It returns what is
// wrong.
type setter interface{ set(v any) (problem string) }

// Paths is a file or a list of them. One is written as a string.
type Paths []string

func (p *Paths) set(v any) string {
	switch v := v.(type) {
	case string:
		*p = Paths{v}
		return ""
	case []any:
		*p = nil
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return "wants strings in quotes, not " + describe(e)
			}
			*p = append(*p, s)
		}
		return ""
	}
	return "wants a string in quotes or a list of them, not " + describe(v)
}

// MarshalJSON writes one path as a string.
func (p Paths) MarshalJSON() ([]byte, error) {
	if len(p) == 1 {
		return json.Marshal(p[0])
	}
	return json.Marshal([]string(p))
}

// Value is a value of a pixel of a mask: a whole number, or a colour "#rrggbb".
type Value string

var valueRule = regexp.MustCompile(`^(#[0-9a-fA-F]{6}|[0-9]{1,5})$`)

func (v *Value) set(t any) string {
	switch t := t.(type) {
	case int64:
		*v = Value(strconv.FormatInt(t, 10))
		return ""
	case string:
		*v = Value(t)
		return ""
	}
	return `wants a whole number or a colour such as "#ff0000", not ` + describe(t)
}

func (v Value) check(c *checker, path []string) {
	if !valueRule.MatchString(string(v)) {
		c.fail(path, `%q is neither a whole number from 0 to 99999 nor a colour such as "#ff0000"`, string(v))
	}
}

// Values has the values of every class.
type Values [][]Value

func (v *Values) set(t any) string {
	list, ok := t.([]any)
	if !ok {
		return "wants a list in [ ], not " + describe(t)
	}
	*v = nil
	for _, e := range list {
		entry, several := e.([]any)
		if !several {
			entry = []any{e}
		}
		var class []Value
		for _, one := range entry {
			var x Value
			if problem := x.set(one); problem != "" {
				return problem
			}
			class = append(class, x)
		}
		*v = append(*v, class)
	}
	return ""
}

// Strings are the values as package dataset takes them.
func (v Values) Strings() [][]string {
	var all [][]string
	for _, class := range v {
		var s []string
		for _, x := range class {
			s = append(s, string(x))
		}
		all = append(all, s)
	}
	return all
}

// String lists the paths.
func (p Paths) String() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%s and %d more", p[0], len(p)-1)
}
