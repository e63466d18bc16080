// Package dmfile writes files of DigitalMicrograph, for tests.
package dmfile

import (
	"bytes"
	"encoding/binary"
)

// writer writes tags as DigitalMicrograph does.
type writer struct {
	bytes.Buffer
	version int
	order   binary.ByteOrder
}

func (w *writer) word(v int) {
	if w.version == 4 {
		binary.Write(w, binary.BigEndian, int64(v))
	} else {
		binary.Write(w, binary.BigEndian, int32(v))
	}
}

func (w *writer) entry(id byte, name string) {
	w.WriteByte(id)
	binary.Write(w, binary.BigEndian, uint16(len(name)))
	w.WriteString(name)
	if w.version == 4 {
		w.Write(make([]byte, 8)) // its length, which no reader needs
	}
}

// group writes a group of n members, to follow.
func (w *writer) group(name string, n int) {
	w.entry(20, name)
	w.Write([]byte{1, 0})
	w.word(n)
}

func (w *writer) value(name string, kind int, v any) {
	w.entry(21, name)
	w.WriteString("%%%%")
	w.word(1)
	w.word(kind)
	binary.Write(w, w.order, v)
}

func (w *writer) array(name string, kind, n int, v any) {
	w.entry(21, name)
	w.WriteString("%%%%")
	w.word(3)
	w.word(20)
	w.word(kind)
	w.word(n)
	binary.Write(w, w.order, v)
}

func (w *writer) text(name, s string) {
	u := make([]uint16, len(s))
	for i := range s {
		u[i] = uint16(s[i])
	}
	w.array(name, 4, len(u), u)
}

// Image is an image of a file.
type Image struct {
	Name   string
	Kind   int      // DigitalMicrograph's type of pixel: 1 int16, 2 float32, 3 complex64, 6 uint8, 23 RGB
	Tag    int      // the encoded type: 2 int16, 5 uint32, 6 float32, 7 float64, 8 boolean, 10 uint8
	Sizes  []uint32 // columns, rows, images
	Data   any      // of N values
	N      int
	Scales []float32 // of the pixels along each axis, in Units
	Units  string
}

// Bytes is a file of DigitalMicrograph, DM3 or DM4 as the version says, of a thumbnail and
// images, whose intensities are (value − 1)/2 electrons, of the camera OneView.
func Bytes(version int, order binary.ByteOrder, images ...Image) []byte {
	w := &writer{version: version, order: order}
	little := int32(0)
	if order == binary.LittleEndian {
		little = 1
	}
	binary.Write(w, binary.BigEndian, int32(version))
	w.word(0)
	binary.Write(w, binary.BigEndian, little)
	w.Write([]byte{1, 0})
	w.word(2)
	images = append([]Image{{"thumb", 23, 5, []uint32{2, 2}, make([]uint32, 4), 4, []float32{1, 1}, ""}}, images...)
	w.group("ImageList", len(images))
	for _, im := range images {
		w.group("", 3)
		w.text("Name", im.Name)
		w.group("ImageData", 4)
		w.group("Calibrations", 2)
		w.group("Brightness", 3)
		w.value("Origin", 6, float32(1))
		w.value("Scale", 6, float32(0.5))
		w.text("Units", "e-")
		w.group("Dimension", len(im.Sizes))
		for i := range im.Sizes {
			w.group("", 2)
			w.value("Scale", 6, im.Scales[i])
			w.text("Units", im.Units)
		}
		w.array("Data", im.Tag, im.N, im.Data)
		w.value("DataType", 5, uint32(im.Kind))
		w.group("Dimensions", len(im.Sizes))
		for _, s := range im.Sizes {
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
