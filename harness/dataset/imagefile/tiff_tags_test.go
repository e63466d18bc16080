package imagefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
)

// tiffTag is a field of a directory.
type tiffTag struct {
	tag, kind uint16
	data      []byte
}

// tiffForm is a form that a TIFF file may have.
type tiffForm struct {
	order binary.ByteOrder
	big   bool
}

func (f tiffForm) String() string { return fmt.Sprintf("%v, BigTIFF %v", f.order, f.big) }

var tiffForms = []tiffForm{{binary.LittleEndian, false}, {binary.BigEndian, false}, {binary.LittleEndian, true}, {binary.BigEndian, true}}

func (f tiffForm) number(size int, v int) []byte {
	b := make([]byte, size)
	switch size {
	case 1:
		b[0] = byte(v)
	case 2:
		f.order.PutUint16(b, uint16(v))
	case 4:
		f.order.PutUint32(b, uint32(v))
	case 8:
		f.order.PutUint64(b, uint64(v))
	}
	return b
}

func (f tiffForm) short(tag uint16, v ...int) tiffTag { return f.integers(tag, 3, 2, v) }
func (f tiffForm) long(tag uint16, v ...int) tiffTag  { return f.integers(tag, 4, 4, v) }
func (f tiffForm) integers(tag, kind uint16, size int, v []int) tiffTag {
	var b []byte
	for _, x := range v {
		b = append(b, f.number(size, x)...)
	}
	return tiffTag{tag, kind, b}
}
func (f tiffForm) rational(tag uint16, num, den int) tiffTag {
	return tiffTag{tag, 5, append(f.number(4, num), f.number(4, den)...)}
}
func tiffText(tag uint16, s string) tiffTag { return tiffTag{tag, 2, []byte(s + "\x00")} }

// file writes one page of the fields, and the pixels where they are to be; extra
// stands at place 16, where the values of tags may point.
func (f tiffForm) file(w, h, bits int, pixels, extra []byte, fields ...tiffTag) []byte {
	entry, inline, countSize := 12, 4, 2
	if f.big {
		entry, inline, countSize = 20, 8, 8
	}
	at := 16 + len(extra)
	fields = append([]tiffTag{f.long(tagWidth, w), f.long(tagHeight, h), f.short(tagBits, bits),
		f.long(tagStripOffsets, at), f.long(tagStripByteCounts, len(pixels))}, fields...)
	slices.SortStableFunc(fields, func(a, b tiffTag) int { return int(a.tag) - int(b.tag) })
	var b []byte
	directory := at + len(pixels)
	directory += directory % 2
	mark := "MM"
	if f.order == binary.LittleEndian {
		mark = "II"
	}
	b = append(b, mark...)
	if f.big {
		b = append(append(append(b, f.number(2, 43)...), append(f.number(2, 8), 0, 0)...), f.number(8, directory)...)
	} else {
		b = append(append(append(b, f.number(2, 42)...), f.number(4, directory)...), make([]byte, 8)...)
	}
	b = append(append(b, extra...), pixels...)
	b = append(b, make([]byte, directory-len(b))...)
	values := directory + countSize + len(fields)*entry + inline
	b = append(b, f.number(countSize, len(fields))...)
	var tail []byte
	for _, x := range fields {
		count := len(x.data) / int(tiffTypeSize[x.kind])
		b = append(append(b, f.number(2, int(x.tag))...), f.number(2, int(x.kind))...)
		b = append(b, f.number(inline, count)...)
		if len(x.data) <= inline {
			b = append(b, append(bytes.Clone(x.data), make([]byte, inline-len(x.data))...)...)
			continue
		}
		b = append(b, f.number(inline, values+len(tail))...)
		tail = append(tail, x.data...)
	}
	return append(append(b, make([]byte, inline)...), tail...)
}

// What the programs of microscopes write into TIFF files, each in its own way, in
// both byte orders and as BigTIFF.
func TestCalibrationOfTIFF(t *testing.T) {
	const w, h = 4, 3
	pixels := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	jeol := func(mode, eos string) string {
		return "<TemReporter><Eos><EosMode>" + eos + "</EosMode></Eos><ImageFormingSystem><ModeString>" + mode +
			"</ModeString><SelectorValue>500000</SelectorValue></ImageFormingSystem></TemReporter>"
	}
	ome := func(attributes string) string {
		return `<?xml version="1.0" encoding="UTF-8"?><OME xmlns="x"><Instrument ID="I:0"><Detector Model="OneView" ID="D:0"/></Instrument>` +
			`<Image ID="I:0"><Pixels ` + attributes + ` SizeX="4"/></Image></OME>`
	}
	for _, tt := range []struct {
		name     string
		fields   func(f tiffForm) (extra []byte, fields []tiffTag)
		x, y     float64 // Å
		origin   string
		detector string
		note     string
	}{
		{"FEI", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagFEIHelios, "[User]\r\nDate=1\r\n[Scan]\r\nPixelWidth=2e-11\r\nPixelHeight=4e-11\r\n[Detectors]\r\nName=HAADF\r\n")}
		}, 0.2, 0.4, "FEI TIFF tag 34682", "HAADF", ""},
		{"FEI's older tag", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagFEITitan, "[Scan]\nPixelWidth=2e-11\nPixelHeight=2e-11\n")}
		}, 0.2, 0.2, "FEI TIFF tag 34680", "", ""},
		{"Zeiss", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagZeiss, "0\r\n0\r\n0\r\n1e-12\r\n0\r\nAP_WD\r\n")}
		}, 0.01 * 1024 / w, 0.01 * 1024 / w, "Zeiss TIFF tag 34118", "", ""},
		{"Olympus SIS", func(f tiffForm) ([]byte, []tiffTag) {
			le := binary.LittleEndian // whatever the file is
			extra := make([]byte, 256)
			copy(extra, "SIS0")
			le.PutUint16(extra[58:], 1)
			le.PutUint16(extra[60:], 1)           // an entry of type 1
			le.PutUint32(extra[64:], uint32(116)) // at place 100 of these
			s := extra[100:]
			power := int16(-9)
			le.PutUint16(s[10:], uint16(power))
			le.PutUint64(s[12:], math.Float64bits(0.02))
			le.PutUint64(s[20:], math.Float64bits(0.04))
			copy(s[46:], "Veleta\x00")
			return extra, []tiffTag{f.long(tagSIS, 16)}
		}, 0.2, 0.4, "Olympus SIS TIFF tag 33560", "Veleta", ""},
		{"TVIPS", func(f tiffForm) ([]byte, []tiffTag) {
			extra := make([]byte, 244+6068)
			f.order.PutUint32(extra, 2)
			f.order.PutUint32(extra[244+2724:], math.Float32bits(0.02))
			f.order.PutUint32(extra[244+2728:], math.Float32bits(0.04))
			for i, u := range utf16.Encode([]rune("F416")) {
				f.order.PutUint16(extra[244+3524+2*i:], u)
			}
			f.order.PutUint32(extra[244+6064:], 0xaaaaaaaa)
			return extra, []tiffTag{f.long(tagTVIPS, 16)}
		}, 0.2, 0.4, "TVIPS TIFF tag 37706", "F416", ""},
		{"TVIPS without a size", func(f tiffForm) ([]byte, []tiffTag) {
			extra := make([]byte, 244+6068)
			f.order.PutUint32(extra, 2)
			f.order.PutUint32(extra[244+6064:], 0xaaaaaaaa)
			return extra, []tiffTag{f.long(tagTVIPS, 16), f.rational(tagXResolution, 5e8, 1), f.rational(tagYResolution, 5e8, 1), f.short(tagResolutionUnit, 3)}
		}, 0.2, 0.2, "TIFF resolution", "", ""},
		{"DigitalMicrograph", func(f tiffForm) ([]byte, []tiffTag) {
			real := func(tag uint16, v float32) tiffTag {
				return tiffTag{tag, 11, f.number(4, int(math.Float32bits(v)))}
			}
			return nil, []tiffTag{real(tagDMScaleX, 0.02), real(tagDMScaleY, 2e-5), tiffText(tagDMUnitX, "nm"), tiffText(tagDMUnitY, "\xb5m")}
		}, 0.2, 0.2, "DigitalMicrograph TIFF tag 65009", "", ""},
		{"DigitalMicrograph, diffraction", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{{tagDMScaleX, 11, f.number(4, int(math.Float32bits(0.5)))}, tiffText(tagDMUnitX, "1/nm"), f.rational(tagXResolution, 5e8, 1)}
		}, 0, 0, "", "", "diffraction"},
		{"JEOL", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, jeol("MAG", "eosTEM")), f.rational(tagXResolution, 1000, 1), f.rational(tagYResolution, 1000, 1), f.short(tagResolutionUnit, 3)}
		}, 0.2, 0.2, "JEOL TIFF description, resolution over magnification", "", ""},
		{"JEOL, diffraction", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, jeol("DIFF", "eosTEM")), f.rational(tagXResolution, 1000, 1), f.short(tagResolutionUnit, 3)}
		}, 0, 0, "", "", "eosTEM DIFF"},
		{"OME in nm", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, ome(`PhysicalSizeX="0.02" PhysicalSizeXUnit="nm" PhysicalSizeY="0.4" PhysicalSizeYUnit="Å"`))}
		}, 0.2, 0.4, "OME-XML PhysicalSizeX", "OneView", ""},
		{"OME in µm, its default", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, ome(`PhysicalSizeX="0.00002" PhysicalSizeY="0.00004"`))}
		}, 0.2, 0.4, "OME-XML PhysicalSizeX", "OneView", ""},
		{"OME of an X alone", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, ome(`PhysicalSizeX="20" PhysicalSizeXUnit="pm"`))}
		}, 0.2, 0.2, "OME-XML PhysicalSizeX", "OneView", ""},
		{"OME in pixels", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, ome(`PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"`))}
		}, 0, 0, "", "OneView", ""},
		{"ImageJ", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{tiffText(tagDescription, "ImageJ=1.54f\nunit=\\u00B5m\n"), f.rational(tagXResolution, 50000, 1), f.rational(tagYResolution, 25000, 1)}
		}, 0.2, 0.4, "ImageJ TIFF description", "", ""},
		{"a screen", func(f tiffForm) ([]byte, []tiffTag) {
			return nil, []tiffTag{f.rational(tagXResolution, 72, 1), f.rational(tagYResolution, 72, 1), f.short(tagResolutionUnit, 2)}
		}, 0, 0, "", "", ""},
	} {
		for _, form := range tiffForms {
			extra, fields := tt.fields(form)
			s, _, err := open(form.file(w, h, 8, pixels, extra, fields...), "")
			if err != nil {
				t.Errorf("%s, %v: %v", tt.name, form, err)
				continue
			}
			r, err := s.Record(0)
			if err != nil || r.H != h || r.W != w || r.Pixels[w] != 5 {
				t.Errorf("%s, %v: %d×%d pixels %v, error %v", tt.name, form, r.H, r.W, r.Pixels, err)
				continue
			}
			// float32 scales are good to 1e-7
			if math.Abs(r.Pixel.X-tt.x) > 1e-6*tt.x || math.Abs(r.Pixel.Y-tt.y) > 1e-6*tt.y || r.Pixel.Origin != tt.origin || r.Detector != tt.detector {
				t.Errorf("%s, %v: %+v by %q, want %v × %v Å from %q by %q", tt.name, form, r.Pixel, r.Detector, tt.x, tt.y, tt.origin, tt.detector)
			}
			if notes := strings.Join(r.Notes, "; "); (tt.note == "") != (notes == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("%s, %v: notes %q, want %q", tt.name, form, notes, tt.note)
			}
		}
	}
}

// Ways in which pixels are packed.
func TestPixelsOfTIFF(t *testing.T) {
	const w, h = 5, 2
	// Every row begins at a byte: three numbers of 12 bits in 4½ bytes, …
	twelve := func(v ...int) []byte {
		var b []byte
		for len(v) > 0 {
			row := v[:w]
			v = v[w:]
			bits, n := 0, 0
			for _, x := range row {
				bits, n = bits<<12|x, n+12
				for ; n >= 8; n -= 8 {
					b = append(b, byte(bits>>(n-8)))
				}
			}
			if n > 0 {
				b = append(b, byte(bits<<(8-n)))
			}
		}
		return b
	}
	values := []int{0, 1, 4095, 2048, 256, 17, 4094, 3, 1000, 2999}
	bytesOf := []byte{0, 1, 255, 128, 16, 17, 254, 3, 100, 99}
	greys := make([]int, 3*256)
	colours := make([]int, 3*256)
	for i := range 256 {
		for c := range 3 {
			greys[c*256+i] = 257 * (255 - i)
			colours[c*256+i] = 257 * i * (c % 2)
		}
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := encoder.EncodeAll(bytesOf, nil)
	encoder.Close()
	for _, tt := range []struct {
		name   string
		bits   int
		pixels []byte
		fields func(f tiffForm) []tiffTag
		want   func(i int) int
		note   string
	}{
		{"12 bits", 12, twelve(values...), func(f tiffForm) []tiffTag { return nil }, func(i int) int { return values[i] }, ""},
		{"12 bits, white is zero", 12, twelve(values...), func(f tiffForm) []tiffTag { return []tiffTag{f.short(tagPhotometric, 0)} }, func(i int) int { return 4095 - values[i] }, ""},
		{"zstd", 8, packed, func(f tiffForm) []tiffTag { return []tiffTag{f.short(tagCompression, zstdInTIFF)} }, func(i int) int { return int(bytesOf[i]) }, ""},
		{"palette of greys", 8, bytesOf, func(f tiffForm) []tiffTag {
			return []tiffTag{f.short(tagPhotometric, 3), f.short(tagColourMap, greys...)}
		}, func(i int) int { return 255 - int(bytesOf[i]) }, ""},
		{"palette of colours", 8, bytesOf, func(f tiffForm) []tiffTag {
			return []tiffTag{f.short(tagPhotometric, 3), f.short(tagColourMap, colours...)}
		}, func(i int) int { return int(bytesOf[i]) }, "palette of colours"},
		{"white is zero", 8, bytesOf, func(f tiffForm) []tiffTag { return []tiffTag{f.short(tagPhotometric, 0)} }, func(i int) int { return 255 - int(bytesOf[i]) }, ""},
	} {
		for _, form := range tiffForms {
			s, _, err := open(form.file(w, h, tt.bits, tt.pixels, nil, tt.fields(form)...), "")
			if err != nil {
				t.Errorf("%s, %v: %v", tt.name, form, err)
				continue
			}
			r, err := s.Record(0)
			if err != nil {
				t.Errorf("%s, %v: %v", tt.name, form, err)
				continue
			}
			for i, v := range r.Pixels {
				if v != float32(tt.want(i)) {
					t.Errorf("%s, %v: pixel %d is %v, want %d", tt.name, form, i, v, tt.want(i))
				}
			}
			if notes := strings.Join(r.Notes, "; "); (tt.note == "") != (notes == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("%s, %v: notes %q", tt.name, form, notes)
			}
		}
	}
}

// JPEG in TIFF, whose tables may stand in a tag of their own. The values are those of
// the decoder that reads it outside a TIFF file.
func TestJPEGInTIFF(t *testing.T) {
	const w, h = 20, 12
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = byte(11 * i)
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	decoded, err := jpeg.Decode(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	// Segments of tables: quantization (DB) and Huffman (C4).
	tables, rest := []byte{0xff, 0xd8}, []byte{0xff, 0xd8}
	for p := whole[2:]; ; {
		if p[1] == 0xda { // the scan
			rest = append(rest, p...)
			break
		}
		n := 2 + int(binary.BigEndian.Uint16(p[2:]))
		if p[1] == 0xdb || p[1] == 0xc4 {
			tables = append(tables, p[:n]...)
		} else {
			rest = append(rest, p[:n]...)
		}
		p = p[n:]
	}
	tables = append(tables, 0xff, 0xd9)
	for _, form := range tiffForms {
		for name, file := range map[string][]byte{
			"whole":          form.file(w, h, 8, whole, nil, form.short(tagCompression, jpegInTIFF)),
			"without tables": form.file(w, h, 8, rest, nil, form.short(tagCompression, jpegInTIFF), tiffTag{tagJPEGTables, 7, tables}),
		} {
			s, _, err := open(file, "")
			if err != nil {
				t.Errorf("%s, %v: %v", name, form, err)
				continue
			}
			r, err := s.Record(0)
			if err != nil {
				t.Errorf("%s, %v: %v", name, form, err)
				continue
			}
			for i, v := range r.Pixels {
				if want := color.GrayModel.Convert(decoded.At(i%w, i/w)).(color.Gray).Y; v != float32(want) {
					t.Errorf("%s, %v: pixel %d is %v, want %d", name, form, i, v, want)
					break
				}
			}
		}
	}
}
