// Package pickle writes tables that pandas opens: a pickle that, loaded by
// pandas.read_pickle or by pickle.load where pandas is installed, is a DataFrame.
//
// It is written with the few instructions of protocol 2 (PEP 307) that numbers,
// text, lists and dictionaries need, and calls pandas.DataFrame on a dictionary of
// columns: unlike a DataFrame pickled by pandas itself it depends on no version of
// pandas or NumPy. Columns of int become int64, of float64 float64 with NaN for
// what is missing, all others object.
package pickle

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Entry is a named value of a dictionary.
type Entry struct {
	Name  string
	Value any
}

// Dict is a dictionary, in order.
type Dict []Entry

// Instructions of the pickle machine.
const (
	proto      = 0x80
	global     = 'c'
	mark       = '('
	emptyDict  = '}'
	setItems   = 'u'
	emptyList  = ']'
	appends    = 'e'
	binUnicode = 'X'
	binInt     = 'J'
	long1      = 0x8a
	binFloat   = 'G'
	tuple1     = 0x85
	reduce     = 'R'
	stop       = '.'
)

// DataFrame is the pickle of a table; a column's value is a slice of its rows.
// Values may be int, float64, string, slices of them or of Dict, and Dict.
func DataFrame(columns Dict) ([]byte, error) {
	b := append([]byte{proto, 2, global}, "pandas\nDataFrame\n"...)
	b, err := value(b, columns)
	if err != nil {
		return nil, fmt.Errorf("pickling a table: %w", err)
	}
	return append(b, tuple1, reduce, stop), nil
}

func value(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case int:
		if v == int(int32(v)) {
			return binary.LittleEndian.AppendUint32(append(b, binInt), uint32(v)), nil
		}
		return binary.LittleEndian.AppendUint64(append(b, long1, 8), uint64(v)), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(b, binFloat), math.Float64bits(v)), nil
	case string:
		if int64(len(v)) > math.MaxUint32 {
			return nil, fmt.Errorf("a text has %d bytes", len(v))
		}
		return append(binary.LittleEndian.AppendUint32(append(b, binUnicode), uint32(len(v))), v...), nil
	case Dict:
		b = append(b, emptyDict, mark)
		for _, e := range v {
			var err error
			if b, err = value(b, e.Name); err == nil {
				b, err = value(b, e.Value)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		return append(b, setItems), nil
	case []int:
		return list(b, v)
	case []float64:
		return list(b, v)
	case []string:
		return list(b, v)
	case []Dict:
		return list(b, v)
	}
	return nil, fmt.Errorf("a %T is not written", v)
}

func list[T any](b []byte, values []T) ([]byte, error) {
	b = append(b, emptyList, mark)
	for _, v := range values {
		var err error
		if b, err = value(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, appends), nil
}
