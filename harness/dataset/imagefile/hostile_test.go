package imagefile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// open decodes a file held in memory and reads its first and last image where
// they are small. It returns the bytes allocated for that.
func open(b []byte, array string) (s *Stack, allocated uint64, err error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s, err = Decode(bytes.NewReader(b), int64(len(b)), array)
	runtime.ReadMemStats(&after)
	allocated = after.TotalAlloc - before.TotalAlloc
	if err == nil && s.H*s.W <= 1<<22 {
		dst := make([]float32, s.H*s.W)
		runtime.ReadMemStats(&before)
		for _, i := range []int{0, s.N - 1} {
			if e := s.At(i, dst); e != nil {
				err = e
			}
		}
		runtime.ReadMemStats(&after)
		allocated += after.TotalAlloc - before.TotalAlloc
	}
	return s, allocated, err
}

// allowed is what a file of a length may make a reader allocate, in all and over
// time: a few tables as large as the file, fixed buffers of the decompressors,
// and, where it is compressed, its content at the best ratio, twice (a buffer
// that grows, two images).
func allowed(name string, size int) uint64 {
	ratio := 16
	for _, part := range []string{"deflate", "zlib", "npz", "gzip", "lzf", "channel", "velox", "lzw", "packbits", "png"} {
		if strings.Contains(name, part) {
			ratio = 6 * maxDeflate
		}
	}
	return uint64(ratio*size + 1<<20)
}

// Every number in a header is replaced, and every file is cut anywhere.
func TestDamagedFiles(t *testing.T) {
	all := seeds(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		good := all[name]
		check := func(what string, b []byte) {
			s, n, err := open(b, "")
			if n > allowed(name, len(good)) {
				t.Errorf("%s, %s: %d bytes allocated for a file of %d (%v)", name, what, n, len(b), err)
			}
			if err == nil && uint64(s.N)*uint64(s.H)*uint64(s.W) > 8*allowed(name, len(good)) {
				t.Errorf("%s, %s: %d images of %d×%d from a file of %d", name, what, s.N, s.H, s.W, len(b))
			}
		}
		for n := 0; n < len(good); n += 1 + n/8 + len(good)/40 {
			check(fmt.Sprintf("cut at %d", n), good[:n])
		}
		b := bytes.Clone(good)
		step := max(1, len(good)/80)
		for at := 0; at+8 <= len(good); at += step {
			for _, value := range []uint64{1<<64 - 1, 1<<31 - 1, 1 << 20, 0} {
				for _, size := range []int{1, 2, 4, 8} {
					if size == 4 && at%2 == 0 {
						binary.BigEndian.PutUint32(b[at:], uint32(value))
					} else {
						for i := range size {
							b[at+i] = byte(value >> (8 * i))
						}
					}
				}
				check(fmt.Sprintf("%#x at %d", value, at), b)
				copy(b[at:], good[at:at+8])
			}
		}
	}
}

func npy(header string, data int) []byte {
	b := []byte(npyMagic + "\x01\x00")
	b = binary.LittleEndian.AppendUint16(b, uint16(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestHostileNPY(t *testing.T) {
	for _, tt := range []struct{ header, errorHas string }{
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }", "truncated"},
		{"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 60000, 4000), }", "truncated"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 16000, 16000), }", "too many"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4294967296, 4294967296), }", "larger than"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 5, 5), }", "no dimension"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 5, 5), }", "0 images"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }", "no stack"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 4, 5), }", "no stack"},
		{"{'descr': '<c8', 'fortran_order': False, 'shape': (2, 2), }", "<c8"},
		{"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }", "|O"},
		{"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2), }", "records"},
		{"{'descr': '<f4', 'shape': (2, 2), }", "fortran_order"},
		{"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", "twice"},
		{"{'descr': '<f4}", "does not end"},
		{"}", "not a dictionary"},
		{"", "not a dictionary"},
	} {
		_, n, err := open(npy(tt.header, 1000), "")
		if err == nil || !strings.Contains(err.Error(), tt.errorHas) {
			t.Errorf("%s: error %v, want %q", tt.header, err, tt.errorHas)
		}
		if n > 64<<10 {
			t.Errorf("%s: %d bytes allocated", tt.header, n)
		}
	}
}

// A zip file whose directory lies about sizes.
func TestHostileNPZ(t *testing.T) {
	content := npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 1000), }", 1000)
	for _, tt := range []struct {
		method   uint16
		whole    uint64
		errorHas string
	}{
		{zip.Store, 1 << 40, "truncated"},
		{zip.Deflate, 1 << 40, "cannot unpack"},
		{zip.Deflate, 1 << 16, "unexpected EOF"},
	} {
		var z bytes.Buffer
		w := zip.NewWriter(&z)
		body := content
		if tt.method == zip.Deflate {
			body = deflate(t, content)
		}
		f, err := w.CreateRaw(&zip.FileHeader{Name: "a.npy", Method: tt.method, CRC32: crc32.ChecksumIEEE(content), CompressedSize64: uint64(len(body)), UncompressedSize64: tt.whole})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(body); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		_, n, err := open(z.Bytes(), "")
		if err == nil || !strings.Contains(err.Error(), tt.errorHas) {
			t.Errorf("method %d, %d bytes: error %v, want %q", tt.method, tt.whole, err, tt.errorHas)
		}
		if n > 1<<20 {
			t.Errorf("method %d, %d bytes: %d bytes allocated", tt.method, tt.whole, n)
		}
	}
}

func deflate(t *testing.T, b []byte) []byte {
	t.Helper()
	var z bytes.Buffer
	w := zip.NewWriter(&z)
	f, err := w.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(z.Bytes()), int64(z.Len()))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tiff writes directories of LONG fields, one value each.
func tiff(pages ...[][2]uint32) []byte {
	b := []byte("II*\x00\x08\x00\x00\x00")
	for i, fields := range pages {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(fields)))
		for _, f := range fields {
			b = binary.LittleEndian.AppendUint16(b, uint16(f[0]))
			b = binary.LittleEndian.AppendUint16(b, 4)
			b = binary.LittleEndian.AppendUint32(b, 1)
			b = binary.LittleEndian.AppendUint32(b, f[1])
		}
		next := uint32(len(b) + 4)
		if i == len(pages)-1 {
			next = 0
		}
		b = binary.LittleEndian.AppendUint32(b, next)
	}
	return b
}

func TestHostileTIFF(t *testing.T) {
	page := func(w, h, offset, count uint32, more ...[2]uint32) [][2]uint32 {
		return append([][2]uint32{{tagWidth, w}, {tagHeight, h}, {tagBits, 8}, {tagStripOffsets, offset}, {tagStripByteCounts, count}}, more...)
	}
	shared := make([][][2]uint32, 100)
	for i := range shared {
		shared[i] = page(10, 10, 8, 100)
	}
	loop := tiff(page(2, 2, 8, 4))
	binary.LittleEndian.PutUint32(loop[len(loop)-4:], 8)
	for _, tt := range []struct {
		name     string
		file     []byte
		errorHas string
	}{
		{"huge", tiff(page(1<<31, 1<<31, 8, 4)), "larger than"},
		{"longer than the data", tiff(page(16000, 16000, 8, 4)), "cannot hold"},
		{"outside", tiff(page(2, 2, 1<<30, 4)), "outside"},
		{"pages that share data", tiff(shared...), "share"},
		{"loop", loop, "loop"},
		{"no size", tiff([][2]uint32{{tagBits, 8}}), "0×0"},
		{"tiles", tiff(page(2, 2, 8, 4, [2]uint32{tagTileWidth, 1 << 30}, [2]uint32{tagTileHeight, 1 << 30})), "larger than"},
		{"tile of no rows", tiff(page(2, 2, 8, 4, [2]uint32{tagTileWidth, 16})), "tiles"},
		{"JPEG", tiff(page(2, 2, 8, 4, [2]uint32{tagCompression, 7})), "JPEG"},
		{"JPEG 2000", tiff(page(2, 2, 8, 4, [2]uint32{tagCompression, 33003})), "compression 33003"},
		{"Zstandard", tiff(page(2, 2, 8, 4, [2]uint32{tagCompression, 50000})), "magic number"},
		{"colour", tiff(page(2, 2, 8, 12, [2]uint32{tagSamples, 3}, [2]uint32{tagPhotometric, 2})), "grey"},
		{"13 bits", tiff(append(page(2, 2, 8, 12), [2]uint32{tagBits, 13})), "13 bits"},
		{"white is zero", tiff(page(2, 2, 8, 4, [2]uint32{tagPhotometric, 0}, [2]uint32{tagSampleFormat, 2})), "white"},
		{"palette", tiff(page(2, 2, 8, 4, [2]uint32{tagPhotometric, 3})), "palette"},
		{"no page", []byte("II*\x00\x00\x00\x00\x00"), "no image"},
	} {
		_, n, err := open(tt.file, "")
		if err == nil || !strings.Contains(err.Error(), tt.errorHas) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.errorHas)
		}
		if n > 256<<10 {
			t.Errorf("%s: %d bytes allocated", tt.name, n)
		}
	}
	if s, _, err := open(tiff(page(2, 2, 8, 4)), ""); err != nil || s.N != 1 {
		t.Errorf("the harmless form of these files is not read: %v", err)
	}
}

func FuzzNPY(f *testing.F)  { fuzz(f, ".npy") }
func FuzzNPZ(f *testing.F)  { fuzz(f, ".npz") }
func FuzzTIFF(f *testing.F) { fuzz(f, ".tif") }
func FuzzHDF5(f *testing.F) { fuzz(f, ".h5", ".emd") }
func FuzzMAT(f *testing.F)  { fuzz(f, ".mat") }
func FuzzPNG(f *testing.F)  { fuzz(f, ".png") }
func FuzzJPEG(f *testing.F) { fuzz(f, ".jpg") }
func FuzzMRC(f *testing.F)  { fuzz(f, ".mrc") }
func FuzzSER(f *testing.F)  { fuzz(f, ".ser") }
func FuzzDM(f *testing.F)   { fuzz(f, ".dm3") }

// fuzz starts from the corpus's files of a format. What the garbage collector does
// differs from run to run, so minimising new inputs takes for ever; run it as
//
//	go test -run '^$' -fuzz FuzzTIFF -fuzztime 1m -fuzzminimizetime 10x .
func fuzz(f *testing.F, extensions ...string) {
	all := seeds(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(extensions, filepath.Ext(name)) {
			f.Add(all[name])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n, err := open(b, "")
		if n > uint64(8*maxDeflate*len(b)+4<<20) {
			t.Errorf("%d bytes allocated for a file of %d (%v)", n, len(b), err)
		}
		if err == nil && (s.N < 1 || s.H < 1 || s.W < 1) {
			t.Errorf("%d images of %d×%d", s.N, s.H, s.W)
		}
	})
}
