package report

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"strconv"

	"github.com/refocus-em/refocus/artifacts/reference"
)

// Offset is the least value of the study's loss for two classes, ln(1+e⁻¹): the
// cross entropy applied to probabilities as if they were logits. The published
// tables, other than the noise series', have it subtracted.
const Offset = 0.31326168751822286

// table is a published table: rows of named values.
type table struct {
	columns map[string]int
	rows    [][]string
}

// published reads one of the published tables.
func published(name string) (*table, error) {
	f, err := reference.FS.Open(name + ".csv.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("published table %s: %w", name, err)
	}
	all, err := csv.NewReader(z).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("published table %s: %w", name, err)
	}
	t := &table{columns: map[string]int{}, rows: all[1:]}
	for i, c := range all[0] {
		t.columns[c] = i
	}
	return t, nil
}

// text is the value of a column, which must exist.
func (t *table) text(row []string, column string) string { return row[t.columns[column]] }

// number is the value of a numeric column, which must exist: the tables are part
// of the program.
func (t *table) number(row []string, column string) float64 {
	v, err := strconv.ParseFloat(t.text(row, column), 64)
	if err != nil {
		panic(fmt.Sprintf("published table: column %s: %v", column, err))
	}
	return v
}
