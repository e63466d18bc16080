package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/study"
)

// A file of rates holds training measurements, at most one of a kind, as JSON.

// kind is what a measurement is of.
func (m *Measurement) kind() string {
	return fmt.Sprint(m.Backend, m.Device, m.Precision, m.Threads, m.Width, m.Size, m.Batch, m.Freeze)
}

// SaveRate adds a measurement to a file of rates, in place of one of its kind.
func (m *Measurement) SaveRate(path string) error {
	all, err := readRates(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all = append(slices.DeleteFunc(all, func(o Measurement) bool { return o.kind() == m.kind() }), *m)
	content, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return files.Write(path, append(content, '\n'))
}

func readRates(path string) ([]Measurement, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []Measurement
	if err := json.Unmarshal(content, &all); err != nil {
		return nil, fmt.Errorf("%s is no file of rates that bench train has written: %w", path, err)
	}
	for i, m := range all {
		if !(m.GFLOPS > 0) || math.IsInf(m.GFLOPS, 0) || m.Mode != Train || m.Width < 1 || m.Size < 1 {
			return nil, fmt.Errorf("%s: measurement %d is of no training rate", path, i+1)
		}
	}
	return all, nil
}

// Rates reads a file of rates for plans of networks of some width: of every backend,
// device, precision and number of threads the measurement at the nearest width and, of
// these, with the largest images.
func Rates(path string, width int) ([]study.Rate, error) {
	all, err := readRates(path)
	if err != nil {
		return nil, err
	}
	far := func(m Measurement) float64 { return math.Abs(math.Log(float64(m.Width) / float64(width))) }
	slices.SortStableFunc(all, func(a, b Measurement) int {
		return cmp.Or(cmp.Compare(far(a), far(b)), -cmp.Compare(a.Size*a.Size*a.Batch, b.Size*b.Size*b.Batch))
	})
	var rates []study.Rate
	for _, m := range all {
		if m.Freeze != "" {
			continue
		}
		name := fmt.Sprintf("%s of %s, %s", m.Device, m.Backend, m.Precision)
		if m.Device == "cpu" {
			name += fmt.Sprintf(", %d threads", m.Threads)
		}
		if slices.ContainsFunc(rates, func(r study.Rate) bool { return r.Name == name }) {
			continue
		}
		rates = append(rates, study.Rate{Name: name, FLOPs: m.GFLOPS * 1e9,
			From: fmt.Sprintf("measured at width %d, %s,", m.Width, format.Size(m.Size, m.Size))})
	}
	if rates == nil {
		return nil, fmt.Errorf("%s holds no rate of a whole network's training", path)
	}
	return rates, nil
}
