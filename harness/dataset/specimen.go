package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// specimenEntry is the small file beside a structure's exit waves. It is written
// after them, so where it stands they stand.
type specimenEntry struct {
	Waves     content    `json:"waves"`
	Structure hrtem.Info `json:"structure"`
}

func shardName(i int) string { return fmt.Sprintf("%06d.safetensors", i) }
func entryName(i int) string { return fmt.Sprintf("%06d.json", i) }

// encodeSpecimen is the file of a structure's exit waves.
func encodeSpecimen(c hrtem.Config, sp *hrtem.Specimen) ([]byte, error) {
	n := c.Output * c.Output
	waves := make([]float32, 0, 2*n*len(sp.Waves))
	for p, w := range sp.Waves {
		if len(w) != n {
			return nil, fmt.Errorf("exit wave %d has %d values, want %d", p, len(w), n)
		}
		for _, v := range w {
			waves = append(waves, real(v), imag(v))
		}
	}
	return safetensors.Encode([]safetensors.Tensor{
		{Name: "waves", Shape: []int{len(sp.Waves), c.Output, c.Output, 2}, Data: waves},
		{Name: "label", Shape: []int{c.Crop, c.Crop}, Data: sp.Label},
	}, nil)
}

// decodeSpecimen reads what encodeSpecimen wrote for the same configuration.
func decodeSpecimen(c hrtem.Config, b []byte) (*hrtem.Specimen, error) {
	f, err := safetensors.Decode(b)
	if err != nil {
		return nil, err
	}
	if t, ok := f.Info("waves"); !ok || !slices.Equal(t.Shape, []int{c.Phonons, c.Output, c.Output, 2}) {
		return nil, fmt.Errorf("exit waves have shape %v, want %d of %d×%d", t.Shape, c.Phonons, c.Output, c.Output)
	}
	if t, ok := f.Info("label"); !ok || !slices.Equal(t.Shape, []int{c.Crop, c.Crop}) {
		return nil, fmt.Errorf("label has shape %v, want %d×%d", t.Shape, c.Crop, c.Crop)
	}
	sp := &hrtem.Specimen{Label: make([]uint8, c.Crop*c.Crop)}
	if err := f.ReadUint8("label", 0, sp.Label); err != nil {
		return nil, err
	}
	n := c.Output * c.Output
	raw := make([]float32, 2*n)
	for p := range c.Phonons {
		if err := f.ReadFloat32("waves", p*2*n, raw); err != nil {
			return nil, err
		}
		w := make([]complex64, n)
		for i := range w {
			w[i] = complex(raw[2*i], raw[2*i+1])
		}
		sp.Waves = append(sp.Waves, w)
	}
	return sp, nil
}

// loadSpecimen reads structure i of the exit waves in dir. A structure that is
// missing, damaged or unreadable gives an error: the caller simulates it again.
func loadSpecimen(dir string, c hrtem.Config, i int) (*hrtem.Specimen, content, error) {
	var e specimenEntry
	if err := readJSON(filepath.Join(dir, entryName(i)), &e); err != nil {
		return nil, content{}, err
	}
	path := filepath.Join(dir, shardName(i))
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, content{}, err
	}
	if contentOf(files.Of("", b)) != e.Waves {
		return nil, content{}, fmt.Errorf("%s is damaged: it is not what %s describes", path, entryName(i))
	}
	sp, err := decodeSpecimen(c, b)
	if err != nil {
		return nil, content{}, fmt.Errorf("reading %s: %w", path, err)
	}
	sp.Info = e.Structure
	return sp, e.Waves, nil
}

// saveSpecimen keeps structure i in dir.
func saveSpecimen(disk files.Disk, dir string, shard []byte, i int, info hrtem.Info) error {
	waves := filepath.Join(dir, shardName(i))
	if err := disk.Write(waves, shard); err != nil {
		return err
	}
	err := writeJSON(disk, filepath.Join(dir, entryName(i)), specimenEntry{contentOf(files.Of("", shard)), info})
	if err != nil { // waves that nothing describes only take room, on a full disk
		disk.Remove(waves)
	}
	return err
}

// A part is one finished image of an unfinished set. It carries its own check,
// because it is not worth a sync each: after a power cut a damaged part is
// simply made again.
type part struct {
	Origin
	pixels []float32
	label  []uint8
}

func writePart(disk files.Disk, dir string, i int, c hrtem.Config, p *part) error {
	about, err := json.Marshal(p.Origin)
	if err != nil {
		return err
	}
	b, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "image", Shape: []int{c.Crop, c.Crop}, Data: p.pixels},
		{Name: "label", Shape: []int{c.Crop, c.Crop}, Data: p.label},
	}, map[string]string{"image": string(about)})
	if err != nil {
		return err
	}
	if err := disk.Mkdir(dir); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	return disk.WriteUnsynced(filepath.Join(dir, partName(i)), append(b, sum[:]...))
}

func partName(i int) string { return fmt.Sprintf("%06d.part", i) }

func readPart(dir string, i int, c hrtem.Config) (*part, error) {
	path := filepath.Join(dir, partName(i))
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := len(b) - sha256.Size
	if n < 0 {
		return nil, fmt.Errorf("%s is damaged: %d bytes", path, len(b))
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil, fmt.Errorf("%s is damaged: its checksum is wrong", path)
	}
	f, err := safetensors.Decode(b[:n])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	p := &part{pixels: make([]float32, c.Crop*c.Crop), label: make([]uint8, c.Crop*c.Crop)}
	if err := f.ReadFloat32("image", 0, p.pixels); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if err := f.ReadUint8("label", 0, p.label); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if err := json.Unmarshal([]byte(f.Metadata["image"]), &p.Origin); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return p, nil
}

// hasPart reports whether part i is there and whole.
func hasPart(dir string, i int, c hrtem.Config) bool {
	_, err := readPart(dir, i, c)
	return err == nil
}
