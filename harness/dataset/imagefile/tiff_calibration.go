package imagefile

import "strings"

// calibrate reads what the first page says of its pixels. ImageJ and its relatives
// write the resolution in pixels per unit and the unit's name in the description;
// others give pixels per centimetre or inch, where a screen's resolution is a
// placeholder.
func (t *tiffFile) calibrate(dir map[uint16]tiffField, f *Info) error {
	x, err := t.resolution(dir, tagXResolution)
	if err != nil || x == 0 {
		return err
	}
	y, err := t.resolution(dir, tagYResolution)
	if err != nil {
		return err
	}
	if y == 0 {
		y = x
	}
	text, err := t.text(dir, tagDescription)
	if err != nil {
		return err
	}
	if strings.HasPrefix(text, "ImageJ=") {
		for line := range strings.Lines(text) {
			if unit, ok := strings.CutPrefix(strings.TrimSpace(line), "unit="); ok {
				f.calibrate(1/x, 1/y, unit, "ImageJ TIFF description")
				return nil
			}
		}
	}
	unit, err := t.number(dir, tagResolutionUnit, 2)
	if err != nil {
		return err
	}
	scale := map[int64]float64{2: 2.54e8, 3: 1e8}[unit]
	// Coarser than 100 nm is not an electron micrograph but a screen or a printer.
	if size := scale / x; plausible(size) != 0 && size <= 1e3 {
		f.calibrate(size, scale/y, "Å", "TIFF resolution")
	}
	return nil
}

// resolution reads a number of pixels per unit, 0 without one.
func (t *tiffFile) resolution(dir map[uint16]tiffField, tag uint16) (float64, error) {
	f, ok := dir[tag]
	if !ok || f.kind != 5 || f.count != 1 {
		return 0, nil
	}
	b, err := t.bytes(f.offset, 8)
	if err != nil {
		return 0, err
	}
	num, den := t.order.Uint32(b), t.order.Uint32(b[4:])
	if num == 0 || den == 0 {
		return 0, nil
	}
	return float64(num) / float64(den), nil
}

// maxText bounds the text of a tag.
const maxText = 1 << 22

// text reads a tag of characters or bytes, empty without one.
func (t *tiffFile) text(dir map[uint16]tiffField, tag uint16) (string, error) {
	f := dir[tag]
	if f.kind != 2 && f.kind != 1 && f.kind != 7 || f.count < 1 || f.count > maxText {
		return "", nil
	}
	b, err := t.bytes(f.offset, f.count)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\x00"), nil
}
