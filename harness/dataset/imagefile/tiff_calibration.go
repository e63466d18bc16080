package imagefile

import (
	"encoding/binary"
	"encoding/xml"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Tags and texts in which programs of microscopes keep the size of a pixel.
const (
	tagSIS       = 33560 // Olympus Soft Imaging Solutions, iTEM
	tagZeiss     = 34118 // Zeiss SmartSEM
	tagFEITitan  = 34680
	tagFEIHelios = 34682
	tagTVIPS     = 37706 // EM-Menu of TVIPS
	tagDMUnitX   = 65003 // DigitalMicrograph
	tagDMUnitY   = 65004
	tagDMScaleX  = 65009
	tagDMScaleY  = 65010
)

// calibrate reads what a page says of its pixels: what a microscope's program
// wrote before what any program may have copied, the resolution last.
func (t *tiffFile) calibrate(dir map[uint16]tiffField, f *Info) error {
	for _, read := range []func(map[uint16]tiffField, *Info) (bool, error){
		t.calibrateDM, t.calibrateFEI, t.calibrateSIS, t.calibrateZeiss, t.calibrateTVIPS,
		t.calibrateDescription, t.calibrateResolution,
	} {
		if done, err := read(dir, f); done || err != nil {
			return err
		}
	}
	return nil
}

func (t *tiffFile) calibrateDM(dir map[uint16]tiffField, f *Info) (bool, error) {
	x, err := t.double(dir, tagDMScaleX)
	if err != nil || x == 0 {
		return false, err
	}
	y, err := t.double(dir, tagDMScaleY)
	if err != nil {
		return false, err
	}
	ux, err := t.text(dir, tagDMUnitX)
	if err != nil {
		return false, err
	}
	uy, err := t.text(dir, tagDMUnitY)
	if err != nil {
		return false, err
	}
	if y == 0 {
		y, uy = x, ux
	}
	x, y, ux = sameUnit(x, y, latin1(ux), latin1(uy))
	f.calibrate(x, y, ux, "DigitalMicrograph TIFF tag 65009")
	return true, nil
}

// latin1 turns text of one byte per letter into UTF-8; what is UTF-8 stays.
func latin1(s string) string {
	if strings.ToValidUTF8(s, "") == s {
		return s
	}
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// ini reads a text of sections, "[Scan]", and keys, "PixelWidth=1e-09".
func ini(text string) map[string]string {
	values := map[string]string{}
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]") + "."
		} else if key, value, ok := strings.Cut(line, "="); ok {
			values[section+strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return values
}

func (t *tiffFile) calibrateFEI(dir map[uint16]tiffField, f *Info) (bool, error) {
	for _, tag := range []uint16{tagFEIHelios, tagFEITitan} {
		text, err := t.text(dir, tag)
		if err != nil || text == "" {
			if err != nil {
				return false, err
			}
			continue
		}
		origin := "FEI TIFF tag " + strconv.Itoa(int(tag))
		v := ini(text)
		number := func(key string) float64 {
			x, _ := strconv.ParseFloat(v[key], 64)
			return x
		}
		f.Detector = v["Detectors.Name"]
		x, y := number("Scan.PixelWidth"), number("Scan.PixelHeight")
		if x == 0 { // a camera's picture has a field of view
			x, y = number("IRBeam.HFW")/number("Image.ResolutionX"), number("IRBeam.VFW")/number("Image.ResolutionY")
		}
		if x > 0 && y > 0 {
			f.calibrate(x, y, "m", origin)
			return true, nil
		}
	}
	return false, nil
}

// calibrateSIS reads the part of the structure that is known: a header of 64 bytes,
// then entries of a type, a count and a place; the first type holds sizes in units
// of a power of ten of a metre.
func (t *tiffFile) calibrateSIS(dir map[uint16]tiffField, f *Info) (bool, error) {
	at, err := t.number(dir, tagSIS, 0)
	if err != nil || at == 0 {
		return false, nil // a structure that nobody describes: no reason to refuse the image
	}
	head, err := t.bytes(at, 64)
	if err != nil || string(head[:4]) != "SIS0" {
		return false, nil
	}
	n := int64(binary.LittleEndian.Uint16(head[58:]))
	table, err := t.bytes(at+60, 8*n)
	if err != nil {
		return false, nil
	}
	for ; len(table) > 0; table = table[8:] {
		if binary.LittleEndian.Uint16(table) != 1 {
			continue
		}
		b, err := t.bytes(int64(binary.LittleEndian.Uint32(table[4:])), 112)
		if err != nil {
			return false, nil
		}
		c := &cursor{b: b}
		c.take(10)
		unit := math.Pow10(int(int16(c.int(2))))
		x, y := c.float(), c.float()
		c.take(8 + 8 + 2)
		f.Detector = strings.TrimRight(strings.SplitN(string(c.take(34)), "\x00", 2)[0], " ")
		f.calibrate(x*unit, y*unit, "m", "Olympus SIS TIFF tag 33560")
		return true, nil
	}
	return false, nil
}

// calibrateZeiss reads the fourth line of SmartSEM's text, the size of a pixel in m
// on a screen of 1024 pixels.
func (t *tiffFile) calibrateZeiss(dir map[uint16]tiffField, f *Info) (bool, error) {
	text, err := t.text(dir, tagZeiss)
	if err != nil || text == "" {
		return false, err
	}
	lines := strings.SplitN(text, "\n", 5)
	if len(lines) < 5 {
		return false, nil
	}
	size, err := strconv.ParseFloat(strings.TrimSpace(lines[3]), 64)
	if err != nil {
		return false, nil
	}
	w, err := t.number(dir, tagWidth, 0)
	if err != nil {
		return false, err
	}
	size *= 1024 / float64(w)
	f.calibrate(size, size, "m", "Zeiss TIFF tag 34118")
	return true, nil
}

// calibrateTVIPS reads EM-Menu's header of version 2, which lies where the tag says:
// sizes of pixels in nm, 0 where they are not known, and the camera's name in UTF-16.
func (t *tiffFile) calibrateTVIPS(dir map[uint16]tiffField, f *Info) (bool, error) {
	at, err := t.number(dir, tagTVIPS, 0)
	if err != nil || at == 0 {
		return false, nil
	}
	const (
		before   = 244 // bytes of version 1
		length   = before + 6068
		pixelX   = before + 2724
		pixelY   = before + 2728
		camera   = before + 3524
		magic    = before + 6064
		nameSize = 160
	)
	b, err := t.bytes(at, length)
	if err != nil || t.order.Uint32(b) != 2 || t.order.Uint32(b[magic:]) != 0xaaaaaaaa {
		return false, nil
	}
	var name []uint16
	for i := camera; i < camera+nameSize; i += 2 {
		if u := t.order.Uint16(b[i:]); u != 0 {
			name = append(name, u)
			continue
		}
		break
	}
	f.Detector = strings.TrimSpace(string(utf16.Decode(name)))
	real := func(at int) float64 { return float64(math.Float32frombits(t.order.Uint32(b[at:]))) }
	f.calibrate(real(pixelX), real(pixelY), "nm", "TVIPS TIFF tag 37706")
	return f.Pixel.Known(), nil
}

// calibrateDescription reads OME-XML, JEOL's report and ImageJ's text.
func (t *tiffFile) calibrateDescription(dir map[uint16]tiffField, f *Info) (bool, error) {
	text, err := t.text(dir, tagDescription)
	if err != nil || text == "" {
		return false, err
	}
	switch {
	case strings.HasPrefix(text, "ImageJ="):
		x, y, err := t.resolutions(dir)
		if err != nil || x == 0 {
			return false, err
		}
		for line := range strings.Lines(text) {
			if unit, ok := strings.CutPrefix(strings.TrimSpace(line), "unit="); ok {
				f.calibrate(1/x, 1/y, unit, "ImageJ TIFF description")
				return true, nil
			}
		}
	case strings.Contains(text, "<OME "):
		return f.ome(text), nil
	case strings.Contains(text, "<TemReporter"):
		return t.calibrateJEOL(dir, text, f)
	}
	return false, nil
}

// ome reads the pixel size of the first image of OME-XML.
func (f *Info) ome(text string) bool {
	var o struct {
		Instrument struct {
			Detector struct {
				Model string `xml:",attr"`
			}
		}
		Image []struct {
			Pixels struct {
				PhysicalSizeX, PhysicalSizeY         float64 `xml:",attr"`
				PhysicalSizeXUnit, PhysicalSizeYUnit string  `xml:",attr"`
			}
		}
	}
	if xml.Unmarshal([]byte(text), &o) != nil || len(o.Image) == 0 {
		return false
	}
	p := o.Image[0].Pixels
	unit := func(s string) string {
		if s == "" {
			return "µm" // the schema's default
		}
		return s
	}
	if p.PhysicalSizeY == 0 {
		p.PhysicalSizeY, p.PhysicalSizeYUnit = p.PhysicalSizeX, p.PhysicalSizeXUnit
	}
	x, y, u := sameUnit(p.PhysicalSizeX, p.PhysicalSizeY, unit(p.PhysicalSizeXUnit), unit(p.PhysicalSizeYUnit))
	f.Detector = o.Instrument.Detector.Model
	f.calibrate(x, y, u, "OME-XML PhysicalSizeX")
	return p.PhysicalSizeX != 0
}

// calibrateJEOL takes the resolution, which is that of the camera, over the
// magnification.
func (t *tiffFile) calibrateJEOL(dir map[uint16]tiffField, text string, f *Info) (bool, error) {
	x, y, err := t.resolutions(dir)
	if err != nil {
		return false, err
	}
	unit, err := t.number(dir, tagResolutionUnit, 2)
	if err != nil {
		return false, err
	}
	var r struct {
		Eos struct {
			EosMode string
		}
		ImageFormingSystem struct {
			ModeString    string
			SelectorValue float64
		}
	}
	if x == 0 || xml.Unmarshal([]byte(strings.TrimRight(text, "\x00\x01 \r\n")), &r) != nil {
		return true, nil // the resolution alone is not that of the image
	}
	m := r.ImageFormingSystem
	if r.Eos.EosMode != "eosTEM" || m.ModeString != "MAG" || !(m.SelectorValue > 0) {
		f.note("taken in the mode %s %s (JEOL's description): its pixels have no size in nm, or it is not stated", r.Eos.EosMode, m.ModeString)
		return true, nil
	}
	name := map[int64]string{2: "inch", 3: "cm"}[unit]
	f.calibrate(1/x/m.SelectorValue, 1/y/m.SelectorValue, name, "JEOL TIFF description, resolution over magnification")
	return true, nil
}

// calibrateResolution reads pixels per centimetre or inch, where a screen's
// resolution is a placeholder.
func (t *tiffFile) calibrateResolution(dir map[uint16]tiffField, f *Info) (bool, error) {
	x, y, err := t.resolutions(dir)
	if err != nil || x == 0 {
		return false, err
	}
	unit, err := t.number(dir, tagResolutionUnit, 2)
	if err != nil {
		return false, err
	}
	scale := map[int64]float64{2: 2.54e8, 3: 1e8}[unit]
	// Coarser than 100 nm is not an electron micrograph but a screen or a printer.
	if size := scale / x; plausible(size) != 0 && size <= 1e3 {
		f.calibrate(size, scale/y, "Å", "TIFF resolution")
	}
	return true, nil
}

// resolutions reads the pixels per unit along a row and a column, 0 without them.
func (t *tiffFile) resolutions(dir map[uint16]tiffField) (x, y float64, err error) {
	if x, err = t.resolution(dir, tagXResolution); err != nil || x == 0 {
		return 0, 0, err
	}
	if y, err = t.resolution(dir, tagYResolution); y == 0 {
		y = x
	}
	return x, y, err
}

// double reads a floating-point number, 0 without one.
func (t *tiffFile) double(dir map[uint16]tiffField, tag uint16) (float64, error) {
	f, ok := dir[tag]
	if !ok || f.count != 1 || f.kind != 11 && f.kind != 12 {
		return 0, nil
	}
	b, err := t.bytes(f.offset, tiffTypeSize[f.kind])
	if err != nil {
		return 0, err
	}
	if f.kind == 11 {
		return float64(math.Float32frombits(t.order.Uint32(b))), nil
	}
	return math.Float64frombits(t.order.Uint64(b)), nil
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
