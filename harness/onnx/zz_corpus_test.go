package onnx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/plugins/cpu"
)

func TestZZ(t *testing.T) {
	files, _ := filepath.Glob(os.Getenv("ZZ"))
	sort.Strings(files)
	ok := map[string][2]int{}
	for _, p := range files {
		var rec struct {
			Net, How, Error string
			Runs            []struct {
				Shape, Oshape []int
				In, Out       string
			}
		}
		b, _ := os.ReadFile(p)
		json.Unmarshal(b, &rec)
		if rec.Error != "" {
			continue
		}
		c := ok[rec.How]
		c[1]++
		err := func() error {
			g, _, err := onnx.ReadFile(p[:len(p)-5]+".onnx", onnx.ReadOptions{})
			if err != nil {
				return err
			}
			s, err := cpu.New("test").Open(context.Background(), g, backend.Options{})
			if err != nil {
				return err
			}
			defer s.Close()
			for _, r := range rec.Runs {
				y, err := s.Predict(context.Background(), backend.Tensor{Shape: r.Shape, F32: floats(t, r.In)})
				if err != nil {
					return err
				}
				want := floats(t, r.Out)
				m, d := 0.0, 0.0
				if len(want) != len(y.F32) {
					return fmt.Errorf("shape %v want %v", y.Shape, r.Oshape)
				}
				for i, w := range want {
					m = math.Max(m, math.Abs(float64(w)))
					e := math.Abs(float64(w) - float64(y.F32[i]))
					if e != e {
						return fmt.Errorf("NaN")
					}
					d = math.Max(d, e)
				}
				if d > 1e-4*m {
					return fmt.Errorf("WRONG differs by %g of %g", d, m)
				}
			}
			return nil
		}()
		if err == nil {
			c[0]++
		} else {
			fmt.Println(rec.Net, rec.How, err)
		}
		ok[rec.How] = c
	}
	fmt.Println(ok)
}
