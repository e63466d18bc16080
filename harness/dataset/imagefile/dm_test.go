package imagefile

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

// dmWriter writes tags as DigitalMicrograph does.
type dmWriter struct {
	bytes.Buffer
	version int
	order   binary.ByteOrder
}

func (w *dmWriter) word(v int) {
	if w.version == 4 {
		binary.Write(w, binary.BigEndian, int64(v))
	} else {
		binary.Write(w, binary.BigEndian, int32(v))
	}
}

func (w *dmWriter) entry(id byte, name string) {
	w.WriteByte(id)
	binary.Write(w, binary.BigEndian, uint16(len(name)))
	w.WriteString(name)
	if w.version == 4 {
		w.Write(make([]byte, 8)) // its length, which no reader needs
	}
}

// group writes a group of n members, to follow.
func (w *dmWriter) group(name string, n int) {
	w.entry(20, name)
	w.Write([]byte{1, 0})
	w.word(n)
}

func (w *dmWriter) value(name string, kind int, v any) {
	w.entry(21, name)
	w.WriteString("%%%%")
	w.word(1)
	w.word(kind)
	binary.Write(w, w.order, v)
}

func (w *dmWriter) array(name string, kind, n int, v any) {
	w.entry(21, name)
	w.WriteString("%%%%")
	w.word(3)
	w.word(20)
	w.word(kind)
	w.word(n)
	binary.Write(w, w.order, v)
}

func (w *dmWriter) text(name, s string) {
	u := make([]uint16, len(s))
	for i := range s {
		u[i] = uint16(s[i])
	}
	w.array(name, 4, len(u), u)
}

type dmTestImage struct {
	name  string
	kind  int // DigitalMicrograph's type of pixel
	tag   int // the encoded type
	sizes []uint32
	data  any
	n     int
	units string
}

// dmBytes is a file of a thumbnail and images whose pixels are 0.5 by 0.25 units.
func dmBytes(version int, order binary.ByteOrder, images ...dmTestImage) []byte {
	w := &dmWriter{version: version, order: order}
	little := int32(0)
	if order == binary.LittleEndian {
		little = 1
	}
	binary.Write(w, binary.BigEndian, int32(version))
	w.word(0)
	binary.Write(w, binary.BigEndian, little)
	w.Write([]byte{1, 0})
	w.word(2)
	images = append([]dmTestImage{{"thumb", 23, 5, []uint32{2, 2}, make([]uint32, 4), 4, ""}}, images...)
	w.group("ImageList", len(images))
	for _, im := range images {
		w.group("", 3)
		w.text("Name", im.name)
		w.group("ImageData", 4)
		w.group("Calibrations", 2)
		w.group("Brightness", 3)
		w.value("Origin", 6, float32(1))
		w.value("Scale", 6, float32(0.5))
		w.text("Units", "e-")
		w.group("Dimension", len(im.sizes))
		for i := range im.sizes {
			w.group("", 2)
			w.value("Scale", 6, []float32{0.5, 0.25, 1}[i])
			w.text("Units", im.units)
		}
		w.array("Data", im.tag, im.n, im.data)
		w.value("DataType", 5, uint32(im.kind))
		w.group("Dimensions", len(im.sizes))
		for _, s := range im.sizes {
			w.value("", 5, s)
		}
		w.group("ImageTags", 1)
		w.group("Acquisition", 1)
		w.group("Device", 1)
		w.text("Name", "OneView")
	}
	w.group("Thumbnails", 1)
	w.group("", 1)
	w.value("ImageIndex", 5, uint32(0))
	return w.Bytes()
}

func TestDM(t *testing.T) {
	grey := dmTestImage{"A", 1, 2, []uint32{3, 2, 2}, []int16{-1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 12, "nm"}
	fft := dmTestImage{"FFT of A", 3, 7, []uint32{2, 2}, make([]float64, 4), 4, "1/nm"}
	for _, version := range []int{3, 4} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			b := dmBytes(version, order, grey, fft)
			s, _, err := open(b, "")
			if err != nil {
				t.Fatalf("DM%d, %v: %v", version, order, err)
			}
			r, err := s.Record(1)
			if err != nil {
				t.Fatal(err)
			}
			if s.N != 2 || r.H != 2 || r.W != 3 || r.Pixels[5] != 12 {
				t.Errorf("DM%d, %v: %d images of %d×%d, pixels %v", version, order, s.N, r.H, r.W, r.Pixels)
			}
			if r.Pixel.X != 5 || r.Pixel.Y != 2.5 || r.Detector != "OneView" || r.Array != "A" {
				t.Errorf("DM%d, %v: %+v", version, order, r.Info)
			}
			// 7 to 12, less 1, are 0.5 electrons each on 12.5 Å²
			if want := 0.5 * (9.5 - 1) / 12.5; math.Abs(r.Dose-want) > 1e-12 || !strings.Contains(r.DoseOrigin, "DigitalMicrograph") {
				t.Errorf("DM%d, %v: a dose of %v (%s), want %v", version, order, r.Dose, r.DoseOrigin, want)
			}
			if _, _, err := open(b, "FFT of A"); err == nil || !strings.Contains(err.Error(), "complex") {
				t.Errorf("a Fourier transform: error %v", err)
			}
			if _, _, err := open(b, "B"); err == nil || !strings.Contains(err.Error(), "A, FFT of A") {
				t.Errorf("an absent image: error %v", err)
			}
		}
	}
	if _, _, err := open(dmBytes(3, binary.LittleEndian, grey, grey), ""); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("two images: error %v", err)
	}
	one := grey
	one.units = "1/nm"
	if s, _, err := open(dmBytes(4, binary.LittleEndian, one), ""); err != nil || s.Info(0).Pixel.Known() || !strings.Contains(s.Info(0).Notes[0], "diffraction") {
		t.Errorf("a diffraction pattern: error %v", err)
	}
}
