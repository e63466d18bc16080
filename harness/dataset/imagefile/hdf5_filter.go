package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Filters that are read, by their registered numbers.
const (
	filterDeflate  = 1
	filterShuffle  = 2
	filterFletcher = 3
	filterLZF      = 32000
)

// otherFilters are those that are not read, as people know them.
var otherFilters = map[int]string{4: "SZIP", 5: "N-bit", 6: "scale-offset", 307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32026: "Blosc2"}

// maxLZF is the best ratio of LZF: 264 bytes for three.
const maxLZF = 88

// filters reads the pipeline in the order of writing, and its best ratio.
func filters(b []byte) (ids []int, ratio int64, err error) {
	c := &cursor{b: b}
	version, n := c.int(1), c.int(1)
	if version != 1 && version != 2 {
		return nil, 0, fmt.Errorf("filter pipeline of version %d", version)
	}
	if version == 1 {
		c.take(6)
	}
	ratio = 1
	for range n {
		id, name := c.int(2), 0
		if version == 1 || id >= 256 {
			name = c.int(2)
		}
		c.take(2)
		values := c.int(2)
		if version == 1 {
			name = (name + 7) / 8 * 8
			values += values % 2
		}
		c.take(name + 4*values)
		switch {
		case id == filterDeflate && ratio == 1:
			ratio = maxDeflate
		case id == filterLZF && ratio == 1:
			ratio = maxLZF
		case id == filterShuffle, id == filterFletcher:
		default:
			what := fmt.Sprintf("filter %d", id)
			if n := otherFilters[id]; n != "" {
				what = "the filter " + n
			}
			return nil, 0, fmt.Errorf("%s is not read, only one of deflate and LZF, with shuffle and Fletcher-32: save it with compression=\"gzip\"", what)
		}
		ids = append(ids, id)
	}
	return ids, ratio, c.err
}

// inflate unpacks at most limit bytes.
func inflate(b []byte, limit int64) ([]byte, error) {
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(io.LimitReader(z, limit))
}

// unshuffle undoes the transposition of a chunk's bytes: first all first bytes of
// the elements, then all second ones, …; bytes beyond the last whole element
// stay.
func unshuffle(b []byte, size int) []byte {
	n := len(b) / size
	out := bytes.Clone(b)
	for i := range n {
		for j := range size {
			out[i*size+j] = b[j*n+i]
		}
	}
	return out
}

// fletcher32 checks and removes a chunk's checksum: Fletcher's over big-endian
// 16-bit words, modulo 65535.
func fletcher32(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 {
		return nil, io.ErrUnexpectedEOF
	}
	var s1, s2 uint64
	for i := 0; i < n; i += 2 {
		w := uint64(b[i]) << 8
		if i+1 < n {
			w |= uint64(b[i+1])
		}
		s1 = (s1 + w) % 65535
		s2 = (s2 + s1) % 65535
	}
	stored := binary.LittleEndian.Uint32(b[n:])
	lo, hi := uint64(stored&0xffff)%65535, uint64(stored>>16)%65535 // 65535 counts as 0
	if lo != s1 || hi != s2 {
		return nil, fmt.Errorf("its checksum is %#x, it should be %#x", s2<<16|s1, stored)
	}
	return b[:n], nil
}

// unLZF unpacks at most limit bytes of Marc Lehmann's LZF: a control byte below 32
// announces that many literals and one; any other a copy of three bits' length and
// two, from 13 bits' distance and one.
func unLZF(src []byte, limit int64) ([]byte, error) {
	var out []byte
	for len(src) > 0 && int64(len(out)) < limit {
		ctrl := int(src[0])
		src = src[1:]
		if ctrl < 32 {
			if len(src) < ctrl+1 {
				return nil, io.ErrUnexpectedEOF
			}
			out = append(out, src[:ctrl+1]...)
			src = src[ctrl+1:]
			continue
		}
		n := ctrl>>5 + 2
		if n == 9 && len(src) > 0 {
			n += int(src[0])
			src = src[1:]
		}
		if len(src) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		from := len(out) - (ctrl&31<<8 | int(src[0])) - 1
		src = src[1:]
		if from < 0 {
			return nil, errors.New("LZF copies from before the start")
		}
		for range n { // source and copy may overlap
			out = append(out, out[from])
			from++
		}
	}
	return out, nil
}
