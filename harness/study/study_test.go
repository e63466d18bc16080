package study

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
)

// expand returns the plan of a shipped series.
func expand(t testing.TB, series, profile string) *Plan {
	t.Helper()
	f, err := Find(series)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Study(profile)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Expand()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The counts of the paper.
func TestModels(t *testing.T) {
	for _, c := range []struct {
		series               string
		domains, pairs, want int
		shared               int // pretrainings if shared per seed
	}{
		{"defocus", 11, 50, 7200, 30},
		{"noise", 5, 20, 180, 15},
		{"structure", 18, 306, 2754, 54},
		{"baseline", 11, 40, 720, 0},
	} {
		p := expand(t, c.series, "paper")
		if got := p.Models(); got != c.want {
			t.Errorf("%s: %d models, want %d", c.series, got, c.want)
		}
		if got := len(p.Domains); got != c.domains {
			t.Errorf("%s: %d domains, want %d", c.series, got, c.domains)
		}
		if got := len(p.Study.pairs(p.Domains)); got != c.pairs {
			t.Errorf("%s: %d pairs, want %d", c.series, got, c.pairs)
		}
		e := p.Estimate()
		if e.PretrainingsShared != c.shared {
			t.Errorf("%s: %d pretrainings if shared, want %d", c.series, e.PretrainingsShared, c.shared)
		}
		if p.Study.Kind == Transfer && (e.Pretrainings != c.want || e.PretrainingsUnshared != c.want) {
			t.Errorf("%s: %d and %d pretrainings, want one per model", c.series, e.Pretrainings, e.PretrainingsUnshared)
		}
	}
}

// The simulator accepts every simulated domain of every shipped spec, and the
// paper profile of the defocus series is what the simulator calls the paper's.
func TestSimulator(t *testing.T) {
	for _, series := range Series() {
		for _, profile := range []string{"smoke", "quick", "long", "paper"} {
			if series == "own-data" {
				continue
			}
			for _, d := range expand(t, series, profile).Domains {
				c := d.Simulation
				if err := c.Validate(); err != nil {
					t.Errorf("%s %s: %s: %v", series, profile, d.Name, err)
				}
				if profile != "paper" {
					continue
				}
				want := hrtem.Paper(d.Simulation.Crystal)
				if series == "structure" {
					want.Radius = map[string][2]float64{"small": {10, 20}, "large": {25, 35}}[d.Size]
				}
				if c != want {
					t.Errorf("%s: %s is simulated with\n%+v, want\n%+v", series, d.Name, c, want)
				}
			}
		}
	}
}

// table reads one of the published tables.
func table(t *testing.T, name string) []map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "artifacts", "reference", name+".csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]string
	for _, row := range rows[1:] {
		m := map[string]string{}
		for i, h := range rows[0] {
			m[h] = row[i]
		}
		all = append(all, m)
	}
	return all
}

// The expanded configurations are those of the published tables, each as often
// as there (three initialisations).
func TestPublishedConfigurations(t *testing.T) {
	float := func(s string) string {
		x, err := strconv.ParseFloat(s, 64)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(x)
	}
	published := map[string]map[string]int{"defocus": {}, "noise": {}, "baseline": {}}
	for _, r := range table(t, "defocus") {
		published["defocus"][fmt.Sprint(float(r["pretrain_lr"]), float(r["transfer_lr"]), float(r["pretrain_defocus"]),
			float(r["transfer_defocus"]), r["N_tl_training_points"], r["freeze_option"])]++
	}
	for _, r := range table(t, "noise") {
		if r["stage"] == "pretrain" && r["epoch"] == "1" {
			published["noise"][fmt.Sprint(float(r["pretrain_dose"]), float(r["transfer_dose"]), r["freezing_mode"])]++
		}
	}
	for _, r := range table(t, "baseline") {
		published["baseline"][fmt.Sprint(float(r["major"]), float(r["minor"]), r["N_major"], float(r["lr"]))]++
	}

	expanded := map[string]map[string]int{}
	for series := range published {
		expanded[series] = map[string]int{}
		for _, r := range expand(t, series, "paper").Runs {
			var key string
			switch series {
			case "defocus":
				if r.Kind != TransferRun {
					continue
				}
				key = fmt.Sprint(fmt.Sprint(r.Parent.LearningRate), fmt.Sprint(r.LearningRate), fmt.Sprint(r.Source.Value),
					fmt.Sprint(r.Target.Value), fmt.Sprint(r.Images), r.Frozen)
			case "noise":
				if r.Kind != TransferRun {
					continue
				}
				if r.Images != 128 || r.Parent.LearningRate != 1e-4 || r.LearningRate != 1e-5 || r.Precision != backend.Mixed || r.PowerCapWatts != 250 {
					t.Fatalf("%s is not what the paper trained", r.ID)
				}
				key = fmt.Sprint(fmt.Sprint(r.Source.Value), fmt.Sprint(r.Target.Value), r.Frozen)
			case "baseline":
				if r.Images != 512 || len(r.Mixture) != 2 {
					t.Fatalf("%s has %d images in %d parts, want 512 in 2", r.ID, r.Images, len(r.Mixture))
				}
				key = fmt.Sprint(fmt.Sprint(r.Mixture[0].Domain.Value), fmt.Sprint(r.Mixture[1].Domain.Value),
					fmt.Sprint(r.Mixture[0].Images), fmt.Sprint(r.LearningRate))
			}
			expanded[series][key]++
		}
		if !maps.Equal(published[series], expanded[series]) {
			t.Errorf("%s: %d expanded configurations differ from the %d published ones", series, len(expanded[series]), len(published[series]))
		}
		if n := len(published[series]); n < 60 {
			t.Errorf("%s: only %d published configurations read", series, n)
		}
	}
}

// Every plan has unique run names, parents before children, enough images, and
// is the same each time.
func TestPlans(t *testing.T) {
	for _, series := range Series() {
		f, err := Find(series)
		if err != nil {
			t.Fatal(err)
		}
		for _, profile := range append(f.Profiles(), "") {
			p := expand(t, series, profile)
			before := map[*Run]bool{}
			seen := map[string]bool{}
			for _, r := range p.Runs {
				if seen[r.ID] {
					t.Fatalf("%s %s: two runs are called %s", series, profile, r.ID)
				}
				seen[r.ID], before[r] = true, true
				if !fileSafe(r.ID) {
					t.Fatalf("%s %s: %q is not safe in a file name", series, profile, r.ID)
				}
				if (r.Kind == TransferRun) != (r.Parent != nil) || r.Parent != nil && !before[r.Parent] {
					t.Fatalf("%s %s: %s comes before its pretraining, or has none", series, profile, r.ID)
				}
				if r.Parent != nil && (r.Parent.Target != r.Source || r.Parent.Seed != r.Seed) {
					t.Fatalf("%s %s: %s starts from %s", series, profile, r.ID, r.Parent.ID)
				}
				n := 0
				for _, part := range r.Mixture {
					n += part.Images
					if have := part.Domain.TrainImages; have > 0 && part.Images > have {
						t.Fatalf("%s %s: %s wants %d of %d images", series, profile, r.ID, part.Images, have)
					}
				}
				if n != r.Images || r.Epochs < 1 || r.Target == nil {
					t.Fatalf("%s %s: %s is incomplete", series, profile, r.ID)
				}
			}
			keys := map[string]bool{}
			for _, d := range p.Domains {
				if keys[d.Key] {
					t.Errorf("%s %s: two domains are called %s", series, profile, d.Key)
				}
				keys[d.Key] = true
			}
			var a, b bytes.Buffer
			if err := WriteRuns(&a, p); err != nil {
				t.Fatal(err)
			}
			if err := WriteRuns(&b, expand(t, series, profile)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.Bytes(), b.Bytes()) {
				t.Errorf("%s %s: two expansions differ", series, profile)
			}
		}
	}
}

func fileSafe(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == "" && len(s) < 200
}

// Run names are random streams and digests of results: changing them changes
// every result.
func TestRunNames(t *testing.T) {
	for _, c := range []struct {
		series, profile string
		index           int
		want            string
	}{
		{"defocus", "paper", 0, "pretrain_-100_lr1e-3_s0_for_-250_lr1e-4_n64_none"},
		{"defocus", "paper", 1, "transfer_-100_-250_lr1e-3_1e-4_n64_none_s0"},
		{"defocus", "quick", 0, "pretrain_-100_lr1e-3_s0"},
		{"defocus", "quick", 4, "pretrain_100_lr1e-3_s0"},
		{"noise", "smoke", 3, "transfer_30_150_lr1e-3_3e-4_n8_none_s0"},
		{"structure", "smoke", 0, "pretrain_w_CdSe_small_lr1e-3_s0"},
		{"baseline", "paper", 0, "single_-100_-250_n128-384_lr1e-3_s0"},
	} {
		if got := expand(t, c.series, c.profile).Runs[c.index].ID; got != c.want {
			t.Errorf("%s %s: run %d is called %s, want %s", c.series, c.profile, c.index, got, c.want)
		}
	}
}

func TestSharing(t *testing.T) {
	parents := map[*Run]int{}
	p := expand(t, "defocus", "quick")
	for _, r := range p.Runs {
		if r.Parent != nil {
			parents[r.Parent]++
		}
	}
	const want = 5 * 6 // a source and an initialisation
	if len(parents) != want {
		t.Errorf("%d pretrainings serve the quick profile, want %d", len(parents), want)
	}
	for r, n := range parents {
		if n*want != p.Models() {
			t.Errorf("%s serves %d models of %d", r.ID, n, p.Models())
		}
	}
}

// What is zipped goes together, in the order in which the full product would come;
// a rate that a zipped list has twice is one pretraining.
func TestZip(t *testing.T) {
	base := Defaults()
	base.Name = "x"
	base.Grid.Crystals, base.Grid.Defocus, base.Grid.Dose = []string{"w_CdSe"}, []float64{0, 100}, []float64{400}
	base.Source.Defocus = []float64{0}
	base.Training.Initialisations, base.Training.PretrainSharing = 1, ShareSeed
	base.Pretrain.LearningRates, base.Transfer.LearningRates = []float64{1e-3, 1e-4}, []float64{1e-4, 1e-5}
	base.Transfer.Images, base.Transfer.Frozen = []int{64, 8}, []string{FreezeNone, nn.Encoder}
	const first, second, images, frozen = "pretrain.learning_rates", "transfer.learning_rates", "transfer.images", "transfer.frozen"
	for _, c := range []struct {
		name    string
		edit    func(*Study)
		want    string // runs without their domains
		product string
	}{
		{"rates", func(s *Study) { s.Zip, s.Transfer.Images = [][]string{{second, first}}, []int{64} },
			"lr1e-3 lr1e-4 lr1e-3_1e-4_n64_none lr1e-3_1e-4_n64_encoder lr1e-4_1e-5_n64_none lr1e-4_1e-5_n64_encoder",
			"1 pair × 2 combinations of pretraining rate, transfer rate × 1 number of images × 2 frozen parts × 1 initialisation"},
		{"two groups", func(s *Study) { s.Zip = [][]string{{images, frozen}, {first, second}} },
			"lr1e-3 lr1e-4 lr1e-3_1e-4_n64_none lr1e-3_1e-4_n8_encoder lr1e-4_1e-5_n64_none lr1e-4_1e-5_n8_encoder",
			"1 pair × 2 combinations of pretraining rate, transfer rate × 2 combinations of number of images, frozen part × 1 initialisation"},
		{"a star", func(s *Study) {
			s.Zip = [][]string{{first, second, images, frozen}}
			s.Pretrain.LearningRates, s.Transfer.LearningRates = []float64{1e-3, 1e-3, 1e-3, 1e-4}, []float64{1e-4, 1e-4, 1e-4, 1e-5}
			s.Transfer.Images, s.Transfer.Frozen = []int{64, 64, 8, 64}, []string{FreezeNone, nn.Encoder, FreezeNone, FreezeNone}
		}, "lr1e-3 lr1e-4 lr1e-3_1e-4_n64_none lr1e-3_1e-4_n64_encoder lr1e-3_1e-4_n8_none lr1e-4_1e-5_n64_none",
			"1 pair × 4 combinations of pretraining rate, transfer rate, number of images, frozen part × 1 initialisation"},
		{"first and last", func(s *Study) {
			s.Zip, s.Transfer.Images = [][]string{{first, frozen}}, []int{64}
		}, "lr1e-3 lr1e-4 lr1e-3_1e-4_n64_none lr1e-3_1e-5_n64_none lr1e-4_1e-4_n64_encoder lr1e-4_1e-5_n64_encoder",
			"1 pair × 2 combinations of pretraining rate, frozen part × 2 transfer rates × 1 number of images × 1 initialisation"},
		{"no sharing", func(s *Study) {
			s.Zip, s.Training.PretrainSharing = [][]string{{first, second}, {images, frozen}}, ShareNone
			s.Pretrain.LearningRates = []float64{1e-3, 1e-3}
		}, "lr1e-3_for_lr1e-4_n64_none lr1e-3_1e-4_n64_none lr1e-3_for_lr1e-4_n8_encoder lr1e-3_1e-4_n8_encoder " +
			"lr1e-3_for_lr1e-5_n64_none lr1e-3_1e-5_n64_none lr1e-3_for_lr1e-5_n8_encoder lr1e-3_1e-5_n8_encoder",
			"1 pair × 2 combinations of pretraining rate, transfer rate × 2 combinations of number of images, frozen part × 1 initialisation"},
		{"mixtures", func(s *Study) {
			s.Kind, s.Zip = Mixture, [][]string{{"mixture.images", "mixture.learning_rates"}}
			s.Mixture.Images, s.Mixture.LearningRates = [][2]int{{1, 2}, {2, 1}}, []float64{1e-3, 1e-3}
		}, "n1-2_lr1e-3 n2-1_lr1e-3", "1 pair × 2 combinations of mixture, learning rate × 1 initialisation"},
	} {
		s := base
		c.edit(&s)
		p, err := s.Expand()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		short := strings.NewReplacer("pretrain_0_", "", "transfer_0_100_", "", "single_0_100_", "", "_s0", "", "for_100_", "for_")
		for _, r := range p.Runs {
			got = append(got, short.Replace(r.ID))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: runs\n%s\nwant\n%s", c.name, g, c.want)
		}
		if n := s.configurations(); n != p.Models() {
			t.Errorf("%s: %d configurations, %d models", c.name, n, p.Models())
		}
		if g := s.product(1); g != c.product {
			t.Errorf("%s: %s, want %s", c.name, g, c.product)
		}
	}
	// Specs that zip nothing are what they were: their digest is of these bytes.
	b, err := json.Marshal(base)
	if err != nil || strings.Contains(string(b), "zip") {
		t.Errorf("a study that zips nothing says so: %s, %v", b, err)
	}
}

func TestDomains(t *testing.T) {
	d := expand(t, "defocus", "paper").Domains
	if d[0].Name != "defocus −25 nm" || d[0].Key != "-250" || d[0].Value != -250 || d[0].Dose != 400 || d[0].DefocusStd != 15 {
		t.Errorf("first defocus domain is %+v", d[0])
	}
	if d[6].Name != "defocus +5 nm" || d[5].Key != "0" {
		t.Errorf("domains are called %q and %q", d[6].Name, d[5].Key)
	}
	d = expand(t, "noise", "paper").Domains
	if d[0].Name != "dose 30 e⁻/Å²" || d[0].Key != "30" || d[0].Value != 30 || d[0].Defocus != -100 {
		t.Errorf("first noise domain is %+v", d[0])
	}
	d = expand(t, "structure", "paper").Domains
	if d[3].Name != "w_CdSe large" || d[3].Key != "w_CdSe_large" || d[3].Value != 0 || d[3].Simulation.Radius != [2]float64{25, 35} || d[3].Simulation.MaxFaults != 2 {
		t.Errorf("fourth structure domain is %+v", d[3])
	}
	if m := d[16].Simulation; m.Crystal != "bcc_Fe" || m.LabelBlur != 1 || m.MaxFaults != 0 {
		t.Errorf("iron is simulated with %+v", m)
	}
}

// Defocus, noise and baseline series share their structures in each profile.
func TestSharedSimulation(t *testing.T) {
	for _, profile := range []string{"paper", "quick", "smoke"} {
		want := expand(t, "defocus", profile)
		for _, series := range []string{"noise", "baseline"} {
			p := expand(t, series, profile)
			for _, d := range p.Domains {
				if d.Simulation != want.Domains[0].Simulation {
					t.Errorf("%s %s: %s is simulated with %+v, the defocus series with %+v", series, profile, d.Name, d.Simulation, want.Domains[0].Simulation)
				}
			}
			if p.Study.Seed != want.Study.Seed {
				t.Errorf("%s: seed %d, the defocus series has %d", series, p.Study.Seed, want.Study.Seed)
			}
		}
	}
}

// Every protocol field that the paper states has its value in every shipped
// series, whatever the defaults.
func TestPublishedProtocol(t *testing.T) {
	for _, series := range []string{"defocus", "noise", "structure", "baseline"} {
		s := expand(t, series, "paper").Study
		tr := s.Training
		if s.Network.Width != 64 || tr.Loss != backend.LossOnProbabilities || tr.Batch != 16 || !tr.Dihedral || tr.LearningRateDecay != 0.99 ||
			tr.Adam != (backend.Adam{Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}) || tr.Initialisations != 3 || tr.PretrainSharing != ShareNone {
			t.Errorf("%s: protocol %+v", series, tr)
		}
		if s.Kind == Transfer && (s.Pretrain.Epochs != 10 || s.Transfer.Epochs != 10 || s.Pretrain.Images != 512) ||
			s.Kind == Mixture && s.Mixture.Epochs != 10 {
			t.Errorf("%s: stages %+v %+v %+v", series, s.Pretrain, s.Transfer, s.Mixture)
		}
	}
}

func TestRunJSON(t *testing.T) {
	var b bytes.Buffer
	p := expand(t, "baseline", "smoke")
	if err := WriteRuns(&b, p); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(p.Runs) {
		t.Fatalf("%d lines for %d runs", len(lines), len(p.Runs))
	}
	const want = `{"id":"single_-100_-200_n6-18_lr1e-3_s0","kind":"single","source":"-200","target":"-100",` +
		`"mixture":[{"domain":"-100","images":6},{"domain":"-200","images":18}],"learning_rate":0.001,"epochs":3,` +
		`"frozen":"none","images":24,"seed":0,"precision":"float32"}`
	if lines[0] != want {
		t.Errorf("got  %s\nwant %s", lines[0], want)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("not JSON: %s", l)
		}
	}
}

func TestWritePlan(t *testing.T) {
	for _, series := range Series() {
		f, err := Find(series)
		if err != nil {
			t.Fatal(err)
		}
		for _, profile := range append(f.Profiles(), "") {
			var b bytes.Buffer
			p := expand(t, series, profile)
			if err := WritePlan(&b, p, PlanOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{p.Study.Title, format.Count(int64(p.Models())), "FLOP"} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%s %s: %q is missing in\n%s", series, profile, want, b.String())
				}
			}
			if slices.Contains(strings.Fields(b.String()), "NaN") {
				t.Errorf("%s %s: NaN in\n%s", series, profile, b.String())
			}
		}
	}
}

// Expanding all four series at paper scale must stay far below 0.2 s.
func BenchmarkExpandPaper(b *testing.B) {
	for b.Loop() {
		n := 0
		for _, series := range []string{"defocus", "noise", "structure", "baseline"} {
			n += expand(b, series, "paper").Models()
		}
		if n != 10854 {
			b.Fatalf("%d models", n)
		}
	}
}

func TestWords(t *testing.T) {
	domains := func(names ...string) (d []Domain) {
		for _, n := range names {
			d = append(d, Domain{Name: n})
		}
		return d
	}
	for _, c := range []struct{ got, want string }{
		{names(domains("dose 3", "dose 4")), "dose 3, 4"}, {names(domains("a 3", "b 4")), "a 3, b 4"}, {names(domains("a")), "a"},
		{names(domains("x 1", "x 2", "x 3", "x 4", "x 5", "x 6", "x 7", "x 8", "x 9", "x 10", "x 11", "x 12", "x 13")),
			"x 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …, 13"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
