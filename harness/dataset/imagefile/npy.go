package imagefile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const npyMagic = "\x93NUMPY"

// maxNPYHeader bounds the header of an NPY file; a plain array's takes 118 bytes.
const maxNPYHeader = 1 << 16

// maxDeflate is the best ratio of the Deflate format: 258 bytes for two bits.
const maxDeflate = 1032

// decodeNPY follows numpy/lib/format.py: the magic string, two version bytes, the
// length of the header (2 bytes in version 1, 4 later), a Python literal, the
// array.
func decodeNPY(r io.ReaderAt, size int64) (*Stack, error) {
	start, length, h, err := readNPYHeader(r, size)
	if err != nil {
		return nil, err
	}
	e, err := parseDescr(h.descr)
	if err != nil {
		return nil, err
	}
	ax, err := stackAxes(h.shape)
	if err != nil {
		return nil, err
	}
	return rawStack("NPY", r, size, start+length, e, h.shape, ax, h.fortran)
}

// readNPYHeader reads a header of a length that starts at start.
func readNPYHeader(r io.ReaderAt, size int64) (start, length int64, h npyHeader, err error) {
	bad := func(format string, args ...any) (int64, int64, npyHeader, error) {
		return 0, 0, h, fmt.Errorf(format, args...)
	}
	var fixed [12]byte
	k, err := r.ReadAt(fixed[:], 0)
	if k < 10 {
		return bad("NPY header is cut short: %w", noEOF(err))
	}
	switch v := fixed[6]; {
	case v == 1:
		length, start = int64(binary.LittleEndian.Uint16(fixed[8:])), 10
	case (v == 2 || v == 3) && k == 12:
		length, start = int64(binary.LittleEndian.Uint32(fixed[8:])), 12
	default:
		return bad("NPY format %d.%d is not known", fixed[6], fixed[7])
	}
	if length > maxNPYHeader || length > size-start {
		return bad("NPY header of %d bytes in a file of %d", length, size)
	}
	head := make([]byte, length)
	if k, err := r.ReadAt(head, start); k < len(head) {
		return bad("NPY header: %w", noEOF(err))
	}
	if h, err = parseNPYHeader(string(head)); err != nil {
		return bad("NPY header %.120q: %w", head, err)
	}
	return start, length, h, nil
}

func noEOF(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

type npyHeader struct {
	descr   string
	fortran bool
	shape   []int64
}

// parseNPYHeader reads the subset of Python literals that NumPy writes:
// {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
func parseNPYHeader(s string) (npyHeader, error) {
	var h npyHeader
	s = strings.TrimSpace(s)
	if len(s) < 2 || s[0] != '{' || s[len(s)-1] != '}' {
		return h, errors.New("not a dictionary")
	}
	body := s[1 : len(s)-1]
	seen := map[string]bool{}
	for {
		body = strings.TrimLeft(body, " ,\t\n")
		if body == "" {
			break
		}
		key, rest, err := quoted(body)
		if err != nil {
			return h, err
		}
		rest, ok := strings.CutPrefix(strings.TrimSpace(rest), ":")
		if !ok {
			return h, fmt.Errorf("no value after %q", key)
		}
		if seen[key] {
			return h, fmt.Errorf("%q appears twice", key)
		}
		seen[key] = true
		rest = strings.TrimSpace(rest)
		switch key {
		case "descr":
			if strings.HasPrefix(rest, "[") {
				return h, errors.New("records are not images")
			}
			h.descr, body, err = quoted(rest)
		case "fortran_order":
			if body, ok = strings.CutPrefix(rest, "True"); ok {
				h.fortran = true
			} else if body, ok = strings.CutPrefix(rest, "False"); !ok {
				err = errors.New("fortran_order is neither True nor False")
			}
		case "shape":
			h.shape, body, err = tuple(rest)
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return h, err
		}
	}
	for _, key := range []string{"descr", "fortran_order", "shape"} {
		if !seen[key] {
			return h, fmt.Errorf("%q is missing", key)
		}
	}
	return h, nil
}

// quoted reads a Python string without escapes.
func quoted(s string) (value, rest string, err error) {
	if s == "" || s[0] != '\'' && s[0] != '"' {
		return "", "", fmt.Errorf("expected a string at %.20q", s)
	}
	value, rest, ok := strings.Cut(s[1:], s[:1])
	if !ok {
		return "", "", errors.New("a string does not end")
	}
	return value, rest, nil
}

// tuple reads a Python tuple of integers.
func tuple(s string) (values []int64, rest string, err error) {
	body, rest, ok := strings.Cut(s, ")")
	if !ok || !strings.HasPrefix(body, "(") {
		return nil, "", errors.New("shape is not a tuple")
	}
	for f := range strings.SplitSeq(body[1:], ",") {
		if f = strings.TrimSpace(f); f == "" {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSuffix(f, "L"), 10, 64) // Python 2 wrote 3L
		if err != nil || v < 0 {
			return nil, "", fmt.Errorf("%q is no dimension", f)
		}
		values = append(values, v)
	}
	return values, rest, nil
}

// parseDescr reads NumPy's name of an element type, for example "<f4" or "|b1".
func parseDescr(descr string) (element, error) {
	bad := fmt.Errorf("elements of NumPy type %q are not read, only booleans, integers and real floats", descr)
	if len(descr) != 3 {
		return element{}, bad
	}
	e := element{kind: descr[1], size: int(descr[2] - '0'), order: binary.LittleEndian}
	switch descr[0] {
	case '<', '|', '=':
	case '>':
		e.order = binary.BigEndian
	default:
		return element{}, bad
	}
	if e.kind == 'b' && e.size == 1 {
		e.kind = 'u'
	}
	if e.check() != nil || descr[0] == '|' && e.size != 1 {
		return element{}, bad
	}
	return e, nil
}

// decodeNPZ reads the array of the given name, or the only one that can be an image.
func decodeNPZ(r io.ReaderAt, size int64, array string) (*Stack, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, err
	}
	var names []string
	var found *zip.File
	members := map[string]*zip.File{}
	for _, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok {
			continue
		}
		members[name] = f
		if noImage(f) {
			continue
		}
		names = append(names, name)
		if name == array || f.Name == array || array == "" {
			found = f
		}
	}
	if len(members) == 0 {
		return nil, errors.New("a zip archive without NumPy's arrays: unpack it")
	}
	if err := chooseOne(names, array, found != nil); err != nil {
		return nil, err
	}
	s, err := decodeZipped(r, size, found)
	if err != nil {
		return nil, fmt.Errorf("array %q: %w", strings.TrimSuffix(found.Name, ".npy"), err)
	}
	s.Format = "NPZ"
	if len(names) > 1 {
		s.info.Array = strings.TrimSuffix(found.Name, ".npy")
	}
	if found == members["data"] && members["meta_data"] != nil {
		s.Format = "PRZ"
		s.info.prz(members["meta_data_json"])
	}
	return s, nil
}

// noImage reports whether an array is one of objects, of texts, or of fewer than two
// dimensions.
func noImage(f *zip.File) bool {
	rc, err := f.Open()
	if err != nil {
		return false // said where it is read
	}
	defer rc.Close()
	head := make([]byte, 4096)
	n, _ := io.ReadFull(rc, head)
	_, _, h, err := readNPYHeader(bytes.NewReader(head[:n]), int64(n))
	if err != nil {
		return false
	}
	return len(h.shape) < 2 || strings.ContainsAny(h.descr, "OUS")
}

// prz reads what PantaRhei says of an image: JSON in an array of one text. Before
// version 24.03 it wrote a pickle, which is a program.
func (f *Info) prz(member *zip.File) {
	if member == nil {
		f.note("what this file of PantaRhei says of the image is a Python pickle, which is not read")
		return
	}
	rc, err := member.Open()
	if err != nil {
		return
	}
	defer rc.Close()
	const most = 1 << 24
	b, err := io.ReadAll(io.LimitReader(rc, most))
	if err != nil {
		return
	}
	start, length, h, err := readNPYHeader(bytes.NewReader(b), int64(len(b)))
	if err != nil || !strings.HasPrefix(h.descr, "<U") {
		return
	}
	var text strings.Builder
	for b = b[start+length:]; len(b) >= 4; b = b[4:] { // UTF-32
		if c := binary.LittleEndian.Uint32(b); c != 0 && c <= unicode.MaxRune {
			text.WriteRune(rune(c))
		}
	}
	type przAxis struct {
		Value       float64
		Unit        string
		PixelFactor *float64 `json:"pixel_factor"`
	}
	var meta []struct {
		Calibration []przAxis `json:"device.calib"` // along x, y, …
		Detector    string    `json:"scan_generator.detector"`
		Source      string    `json:"source.name"`
	}
	if json.Unmarshal([]byte(text.String()), &meta) != nil || len(meta) == 0 {
		return
	}
	m := meta[0]
	if f.Detector = m.Detector; f.Detector == "" {
		f.Detector = m.Source
	}
	if len(m.Calibration) < 2 {
		return
	}
	side := func(c przAxis) float64 {
		if c.PixelFactor != nil {
			return c.Value * *c.PixelFactor
		}
		return c.Value
	}
	x, y := m.Calibration[0], m.Calibration[1]
	sx, sy, unit := sameUnit(side(x), side(y), x.Unit, y.Unit)
	f.calibrate(sx, sy, unit, "PantaRhei calibration")
}

// chooseOne reports what is wrong with a choice among the arrays of a file.
func chooseOne(names []string, array string, found bool) error {
	slices.Sort(names)
	list := strings.Join(names[:min(len(names), 20)], ", ")
	if len(names) > 20 {
		list += ", …"
	}
	switch {
	case len(names) == 0:
		return errors.New("the file holds no array of images")
	case !found:
		return fmt.Errorf("no array %q, there are: %s", array, list)
	case array == "" && len(names) > 1:
		return fmt.Errorf("several arrays, name one as FILE:ARRAY: %s", list)
	}
	return nil
}

func decodeZipped(r io.ReaderAt, size int64, f *zip.File) (*Stack, error) {
	packed, whole := int64(f.CompressedSize64), int64(f.UncompressedSize64)
	offset, err := f.DataOffset()
	if err != nil {
		return nil, err
	}
	if packed < 0 || offset > size || packed > size-offset {
		return nil, fmt.Errorf("%d bytes of data do not fit the file", f.CompressedSize64)
	}
	if f.Method == zip.Store {
		return decodeNPY(io.NewSectionReader(r, offset, packed), packed)
	}
	if whole < 0 || whole > packed*maxDeflate+64 {
		return nil, fmt.Errorf("%d bytes cannot unpack to %d", packed, f.UncompressedSize64)
	}
	rc, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	// A buffer that grows with what comes out, not with what the file claims.
	var b bytes.Buffer
	if n, err := b.ReadFrom(io.LimitReader(rc, whole+1)); err != nil {
		return nil, err
	} else if n != whole {
		return nil, fmt.Errorf("%d bytes unpacked, the file says %d", n, whole)
	}
	if !bytes.HasPrefix(b.Bytes(), []byte(npyMagic)) {
		return nil, errors.New("not an NPY array")
	}
	return decodeNPY(bytes.NewReader(b.Bytes()), whole)
}
