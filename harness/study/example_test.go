package study_test

import (
	"fmt"
	"log"

	"github.com/refocus-em/refocus/harness/study"
)

func Example() {
	total := 0
	for _, series := range []string{"defocus", "noise", "structure", "baseline"} {
		f, err := study.Find(series)
		if err != nil {
			log.Fatal(err)
		}
		s, err := f.Study("paper")
		if err != nil {
			log.Fatal(err)
		}
		p, err := s.Expand()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%-9s %5d models on %2d domains\n", s.Name, p.Models(), len(p.Domains))
		total += p.Models()
	}
	fmt.Println(total)
	// Output:
	// defocus    7200 models on 11 domains
	// noise       180 models on  5 domains
	// structure  2754 models on 18 domains
	// baseline    720 models on 11 domains
	// 10854
}

// A mistake in a spec is reported with its line and the nearest valid key.
func ExampleParse() {
	_, err := study.Parse("mine.toml", []byte(`name = "mine"
[training]
bacth = 16
precision = "float23"
`))
	fmt.Println(err)
	// Output:
	// mine.toml:3: training.bacth: unknown key; nearest valid key: batch
	// mine.toml:4: training.precision: is "float23"; valid: "float32", "tf32", "bfloat16", "mixed", "float64"
}
