package imagefile

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

// What programs add to the header of MRC: images of 6×2 pixels, entries of bytes
// each in the extended header.
func TestExtendedMRC(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		file := func(kind string, n, mode, size int, extended []byte, integers, reals uint16, change func(head []byte)) []byte {
			head := make([]byte, mrcHeader)
			for i, v := range []int{6, 2, n, mode, 0, 0, 0, 6, 2, n} {
				order.PutUint32(head[4*i:], uint32(v))
			}
			for i, v := range []float32{1.2, 0.4, 1} {
				order.PutUint32(head[40+4*i:], math.Float32bits(v))
			}
			order.PutUint32(head[92:], uint32(len(extended)))
			copy(head[104:], kind)
			order.PutUint16(head[128:], integers)
			order.PutUint16(head[130:], reals)
			copy(head[208:], "MAP ")
			head[212] = 0x44
			if order == binary.BigEndian {
				head[212] = 0x11
			}
			if change != nil {
				change(head)
			}
			data := make([]byte, n*12*size)
			for i := range data {
				data[i] = byte(200 + i%12)
			}
			return append(append(head, extended...), data...)
		}
		// SerialEM: tilt (2 bytes), stage (4), dose (4)
		serial := make([]byte, 20)
		for i, dose := range []float32{12.5, 25} {
			order.PutUint32(serial[10*i+6:], math.Float32bits(dose))
		}
		s, _, err := open(file("SERI", 2, 1, 2, serial, 10, 1|4|32, nil), "")
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []float64{12.5, 25} {
			f := s.Info(i)
			if f.Dose != want || f.DoseOrigin != "SerialEM extended header" || math.Abs(f.Pixel.X-0.2) > 1e-7 {
				t.Errorf("%v, image %d: %+v, want a dose of %v", order, i, f, want)
			}
		}
		if s, _, err := open(file("SERI", 2, 1, 2, serial, 10, 1|4, nil), ""); err != nil || s.Info(0).Dose != 0 {
			t.Errorf("%v, without a dose: %+v, error %v", order, s, err)
		}
		if s, _, err := open(file("SERI", 2, 1, 2, serial[:10], 10, 1|4|32, nil), ""); err != nil || s.Info(0).Dose != 0 {
			t.Errorf("%v, an extended header that is too short: %+v, error %v", order, s, err)
		}
		// FEI's older form: 32 reals, of which the twelfth is the pixel's side in m
		old := make([]byte, 128)
		order.PutUint32(old[44:], math.Float32bits(3e-11))
		if s, _, err := open(file("", 1, 1, 2, old, 0, 32, nil), ""); err != nil || math.Abs(s.Info(0).Pixel.X-0.3) > 1e-6 || s.Info(0).Pixel.Origin != "FEI extended header" {
			t.Errorf("%v, FEI: %+v, error %v", order, s, err)
		}
		// IMOD's stamp and flags: signed bytes or not, two pixels in a byte
		imod := func(flags uint32) func([]byte) {
			return func(head []byte) {
				order.PutUint32(head[152:], 1146047817)
				order.PutUint32(head[156:], flags)
			}
		}
		for flags, want := range map[uint32]float32{0: 200, 1: -56} {
			s, _, err := open(file("", 1, 0, 1, nil, 0, 0, imod(flags)), "")
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Record(0)
			if err != nil || r.Pixels[0] != want {
				t.Errorf("%v, flags %d: %v, error %v, want %v", order, flags, r.Pixels, err, want)
			}
		}
		if _, _, err := open(file("", 1, 0, 1, nil, 0, 0, imod(16)), ""); err == nil || !strings.Contains(err.Error(), "newstack") {
			t.Errorf("%v, two pixels in a byte: error %v", order, err)
		}
	}
}
