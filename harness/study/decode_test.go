package study

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/specs"
)

// minimal is a valid spec; tests break it by replacing or adding lines.
const minimal = `name = "x"
kind = "transfer"
[grid]
crystal = ["w_CdSe"]
defocus = [-100, 0, 100]
dose = [400]
[pretrain]
learning_rates = [1e-3]
[transfer]
images = [64]
learning_rates = [1e-4]
frozen = ["none"]
`

func TestMinimal(t *testing.T) {
	f, err := Parse("s.toml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Study("")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Expand()
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Models(); n != 6*3 {
		t.Errorf("%d models, want 18", n)
	}
}

// Each edit of the minimal spec must give exactly these messages.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new string // new replaces old in minimal, or is appended where old is empty
		want     []string
	}{
		{"syntax", `kind = "transfer"`, `kind = `, []string{`s.toml:2: kind: `}},
		{"syntax, unclosed", `name = "x"`, `name = "x`, []string{`s.toml:1: name: `}},
		{"twice", "", "[grid]\n", []string{`s.toml:13: `}},
		{"misspelt key", "learning_rates = [1e-3]", "learning_rate = [1e-3]",
			[]string{`s.toml:8: pretrain.learning_rate: unknown key; nearest valid key: learning_rates`}},
		{"misspelt table", "[pretrain]", "[pretrian]",
			[]string{`s.toml:7: pretrian: unknown key; nearest valid key: pretrain`}},
		{"key of another table", "[pretrain]", "[pretrain]\nbatch = 4",
			[]string{`s.toml:8: pretrain.batch: unknown key; it belongs to the table [training]`}},
		{"key without its table", `kind = "transfer"`, `width = 4`,
			[]string{`s.toml:2: width: unknown key; it belongs to the table [network]`}},
		{"upper case", `kind = "transfer"`, `Kind = "transfer"`,
			[]string{`s.toml:2: Kind: unknown key; nearest valid key: kind`}},
		{"array of tables", "[pretrain]", "[[pretrain]]",
			[]string{`s.toml:7: pretrain: wants a table, not an array of tables`}},
		{"quoted key", "", "\"a b\".c = 1\n", []string{`s.toml:13: transfer."a b": unknown key; nearest valid key: images`}},
		{"type: number for list", "images = [64]", "images = 64",
			[]string{`s.toml:10: transfer.images: wants a list in [ ], not 64`}},
		{"type: string for number", "dose = [400]", `dose = ["400"]`,
			[]string{`s.toml:6: grid.dose: wants a number, not the string "400"`}},
		{"type: number for string", `name = "x"`, `name = 3.5`,
			[]string{`s.toml:1: name: wants a string in quotes, not 3.5`}},
		{"type: fraction for count", "images = [64]", "images = [64.0]",
			[]string{`s.toml:10: transfer.images: wants a whole number, not 64`}},
		{"type: table for number", "", "[network.width]\n",
			[]string{`s.toml:13: network.width: wants a whole number, not a table`}},
		{"type: number for table", `kind = "transfer"`, `network = 64`,
			[]string{`s.toml:2: network: wants a table, not 64`}},
		{"type: date", `kind = "transfer"`, `kind = 1979-05-27`,
			[]string{`s.toml:2: kind: wants a string in quotes, not a date`}},
		{"type: range of three", "", "[simulation]\nradius = [1, 2, 3]\n",
			[]string{`s.toml:14: simulation.radius: wants a list of 2 numbers, not a list of 3`}},
		{"huge", "", "[network]\nwidth = 9223372036854775807\n",
			[]string{`s.toml:14: network.width: 9223372036854775807 is out of range`}},
		{"negative seed", `kind = "transfer"`, "seed = -1",
			[]string{`s.toml:2: seed: must not be negative, but is -1`}},
		{"NaN", "dose = [400]", "dose = [nan]",
			[]string{`s.toml:6: grid.dose: must be a finite number, but is NaN`}},
		{"infinite", "defocus = [-100, 0, 100]", "defocus = [-inf]",
			[]string{`s.toml:5: grid.defocus: must be a finite number, but is -Inf`}},
		{"no name", `name = "x"`, ``, []string{`s.toml:1: name: is missing`}},
		{"name with a slash", `name = "x"`, `name = "../x"`, []string{`s.toml:1: name: "../x" must be 1 to 64 letters`}},
		{"kind", `kind = "transfer"`, `kind = "tranfer"`,
			[]string{`s.toml:2: kind: is "tranfer"; valid: "transfer", "mixture"`}},
		{"crystal", `"w_CdSe"`, `"w_CdTe"`, []string{`s.toml:4: grid.crystal: is "w_CdTe"; nearest valid value: "w_CdSe"`}},
		{"negative dose", "dose = [400]", "dose = [-400]", []string{`s.toml:6: grid.dose: must be more than 0, but is -400`}},
		{"a dose that nobody simulates", "dose = [400]", "dose = [5e5]", []string{`s.toml:6: grid.dose: must be at most 100000, but is 500000`}},
		{"no dose", "dose = [400]", "", []string{`s.toml:3: grid.dose: needs at least one entry`}},
		{"duplicate domains", "[-100, 0, 100]", "[-100, 0, -100]", []string{`s.toml:5: grid.defocus: has -100 twice`}},
		{"zero and minus zero", "[-100, 0, 100]", "[0.0, -0.0]", []string{`s.toml:5: grid.defocus: has -0 twice`}},
		{"one domain", "[-100, 0, 100]", "[0]", []string{`there is nothing to train`}},
		{"no domains", "[grid]\ncrystal = [\"w_CdSe\"]\ndefocus = [-100, 0, 100]\ndose = [400]\n", "", []string{`grid: no domains: `}},
		{"learning rate", "[1e-4]", "[0]", []string{`s.toml:11: transfer.learning_rates: must be more than 0, but is 0`}},
		{"frozen", `"none"]`, `"none", "decode"]`,
			[]string{`s.toml:12: transfer.frozen: is "decode"; valid: "none", "encoder", "decoder"`}},
		{"too many images", "images = [64]", "images = [64, 513]",
			[]string{`s.toml:10: transfer.images: 513 images are more than grid.train_images = 512`}},
		{"too many pretraining images", "[pretrain]", "[pretrain]\nimages = 600",
			[]string{`s.toml:8: pretrain.images: 600 images are more than grid.train_images = 512`}},
		{"source not a domain", "", "[source]\ndefocus = [-100, 50]\n",
			[]string{`s.toml:14: source.defocus: 50 is not among the study's domains: [-100 0 100]`}},
		{"source without axis", "", "[source]\nsize = [\"small\"]\n",
			[]string{`s.toml:14: source.size: small is not among the study's domains: []`}},
		{"unknown size", "dose = [400]", "dose = [400]\nsize = [\"smal\"]\nsizes.small = 1",
			[]string{`s.toml:8: grid.sizes: unknown key; nearest valid key: size`, `s.toml:7: grid.size: "smal" has no radius`}},
		{"size not in table", "dose = [400]", "dose = [400]\nsize = [\"smal\"]\n[sizes]\nsmall = [5,6]",
			[]string{`s.toml:7: grid.size: is "smal"; valid: "small"`}},
		{"odd width", "", "[network]\nwidth = 15\n", []string{`s.toml:14: network.width: must be even and between 2 and 1024, but is 15`}},
		{"crop", "", "[simulation]\ncrop = 100\n", []string{`s.toml:14: simulation.crop: must be a multiple of 16`}},
		{"crop too large", "", "[simulation]\noutput = 320\n", []string{`s.toml:13: simulation.crop: 512 pixels cannot be cut out of simulation.output = 320`}},
		{"coarse pixels", "", "[simulation]\noutput = 160\ncrop = 160\n", []string{`s.toml:14: simulation.output: 160 pixels on 128 Å are 0.8 Å each; above 0.5 Å`}},
		{"not a product of small primes", "", "[simulation]\ngrid = 1296\noutput = 1288\n", []string{`s.toml:15: simulation.output: must be a multiple of 16 and a product of 2, 3 and 5`}},
		{"not a whole number of vectors", "", "[simulation]\ngrid = 1000\n", []string{`s.toml:14: simulation.grid: must be a multiple of 16 and a product of 2, 3 and 5`}},
		{"particles do not fit", "", "[simulation]\nradius = [15, 65]\n", []string{`s.toml:14: simulation.radius: a particle of radius 65 Å`}},
		{"backward range", "", "[simulation]\ncarbon = [80, 20]\n", []string{`s.toml:14: simulation.carbon: wants [smallest, largest] between 0 and 500, but is [80, 20]`}},
		{"defocus sign", "", "[simulation]\ndefocus_sign = 0\n", []string{`s.toml:14: simulation.defocus_sign: must be 1`}},
		{"label blur of no crystal", "", "[label_blur]\nbcc_fe = 1\n", []string{`s.toml:14: label_blur.bcc_fe: unknown crystal; nearest: bcc_Fe`}},
		{"inline table", "", "[training]\nadam = { beta_1 = 0.9, beta2 = 1.0 }\n",
			[]string{`s.toml:14: training.adam.beta_1: unknown key; nearest valid key: beta1`, `s.toml:14: training.adam.beta2: must be at least 0 and less than 1, but is 1`}},
		{"precision", "", "[training]\nprecision = \"float16\"\n", []string{`s.toml:14: training.precision: is "float16"; valid: "float32", "tf32", "bfloat16", "mixed", "float64"`}},
		{"fallback", "", "[training]\nprecision_fallback = \"mixed\"\n", []string{`s.toml:14: training.precision_fallback: is "mixed"; valid: "", "float32"`}},
		{"power", "", "[training]\npower_cap_watts = -5\n", []string{`s.toml:14: training.power_cap_watts: must be at least 0, but is -5`}},
		{"loss", "", "[training]\nloss = \"crossentropy\"\n", []string{`s.toml:14: training.loss: is "crossentropy"; valid: "cross-entropy-on-probabilities", "cross-entropy"`}},
		{"rate twice", "[1e-4]", "[1e-4, 0.0001]", []string{`s.toml:11: transfer.learning_rates: has 0.0001 twice`}},
		{"zip of no list", `kind = "transfer"`, `zip = [["transfer.images", "transfer.frosen"]]`,
			[]string{`s.toml:2: zip: is "transfer.frosen"; valid: "pretrain.learning_rates", "transfer.learning_rates", "transfer.images", "transfer.frozen"`}},
		{"zip of another kind's list", `kind = "transfer"`, "kind = \"mixture\"\nzip = [[\"mixture.images\", \"transfer.frozen\"]]\n[mixture]\nimages = [[1, 2]]\nlearning_rates = [1]",
			[]string{`s.toml:3: zip: is "transfer.frozen"; valid: "mixture.images", "mixture.learning_rates"`}},
		{"zip by key alone", `kind = "transfer"`, `zip = [["images", "frozen"]]`,
			[]string{`s.toml:2: zip: is "images"; valid: `, `s.toml:2: zip: is "frozen"; valid: `}},
		{"zip of one", `kind = "transfer"`, `zip = [["transfer.images"]]`, []string{`s.toml:2: zip: a group of 1 has nothing to go together with`}},
		{"zip of none", `kind = "transfer"`, `zip = [[]]`, []string{`s.toml:2: zip: a group of 0 has nothing to go together with`}},
		{"zip of itself", `kind = "transfer"`, `zip = [["transfer.images", "transfer.images"]]`, []string{`s.toml:2: zip: has transfer.images twice`}},
		{"zip in two groups", `kind = "transfer"`, `zip = [["pretrain.learning_rates", "transfer.images"], ["transfer.images", "transfer.learning_rates"]]`,
			[]string{`s.toml:2: zip: has transfer.images twice`}},
		{"zip without groups", `kind = "transfer"`, `zip = ["transfer.images", "transfer.frozen"]`,
			[]string{`s.toml:2: zip: wants a list in [ ], not the string "transfer.images"`, `s.toml:2: zip: wants a list in [ ], not the string "transfer.frozen"`}},
		{"zip of two lengths", "", "[profile.p]\nzip = [[\"transfer.frozen\", \"transfer.images\"]]\ntransfer.images = [8, 16, 32]\n",
			[]string{`s.toml:14: profile.p.zip: transfer.images has 3 and transfer.frozen 1: zipped lists go together value by value and need one length`}},
		{"zip that a profile's list no longer fits", `kind = "transfer"`, "zip = [[\"transfer.frozen\", \"transfer.images\"]]\n[profile.p]\ntransfer.images = [8, 16]\n",
			[]string{`s.toml:2: zip: transfer.images has 2 and transfer.frozen 1: zipped lists go together value by value and need one length (with profile p)`}},
		{"zip with a combination twice", "", "[profile.p]\nzip = [[\"transfer.frozen\", \"transfer.images\"]]\ntransfer.images = [8, 16, 8]\ntransfer.frozen = [\"none\", \"none\", \"none\"]\n",
			[]string{`s.toml:14: profile.p.zip: has 8, none twice`}},
		{"zip and a list that is not in it", "", "[profile.p]\nzip = [[\"pretrain.learning_rates\", \"transfer.images\"]]\npretrain.learning_rates = [1, 1]\ntransfer.images = [8, 16]\ntransfer.frozen = [\"none\", \"none\"]\n",
			[]string{`s.toml:17: profile.p.transfer.frozen: has none twice`}},
		{"sharing", "", "[training]\npretrain_sharing = \"all\"\n", []string{`s.toml:14: training.pretrain_sharing: is "all"; valid: "none", "seed"`}},
		{"too many models", "", "[training]\ninitialisations = 1000000\n", []string{`s.toml:14: training.initialisations: the spec expands into 6000000 models, at most 1000000`}},
		{"own data without files", "", "[domain.mine]\n", []string{`s.toml:13: domain.mine.images: is missing`, `s.toml:13: domain.mine.labels: is missing`}},
		{"own data split twice", "", "[domain.mine]\nimages = \"a\"\nlabels = \"b\"\ntrain_images = 3\nvalidation_images = 4\nvalidation_fraction = 0.5\n",
			[]string{`domain.mine.validation_fraction: cannot be combined`, `pretrain.images: 512 images are more`, `transfer.images: 64 images are more`}},
		{"own data with too few images", "", "[domain.mine]\nimages = \"a\"\nlabels = \"b\"\ntrain_images = 3\nvalidation_images = 4\n",
			[]string{`transfer.images: 64 images are more than domain.mine.train_images = 3`, `pretrain.images: 512 images are more than domain.mine.train_images = 3`}},
		{"own data with impossible labels", "", "[domain.mine]\nimages = [\"a\", \"b\"]\nlabels = 3\nlabel_values = [0, \"red\"]\ncrop = 40\nvoid = [1]\n",
			[]string{`s.toml:15: domain.mine.labels: wants a string in quotes or a list of them, not 3`, `s.toml:16: domain.mine.label_values: "red" is neither`,
				`s.toml:17: domain.mine.crop: must be a multiple of 16`, `s.toml:18: domain.mine.void: wants a whole number or a colour`}},
		{"own data in folds", "", "[domain.mine]\nimages = \"a\"\nlabels = \"b\"\nfolds = 5\ngroup_by = \"folders\"\nlabel_kind = \"mask\"\nlabel_values = [0, 1, 2]\n",
			[]string{`s.toml:13: domain.mine.fold: must be at least 1`, `s.toml:17: domain.mine.group_by: must be "file", "folder"`,
				`s.toml:19: domain.mine.label_values: cannot be combined with label_kind`, `s.toml:19: domain.mine.label_values: has 3 entries for 2 classes`}},
		{"own data in an odd place", "", "[domain.\"a/b\"]\nimages = \"a\"\nlabels = \"b\"\n", []string{`s.toml:13: domain."a/b": a domain's name must be`}},
		{"own data of odd size", "", "[domain.mine]\nimages = \"a\"\nlabels = \"b\"\nsize = 500\n", []string{`s.toml:16: domain.mine.size: must be a multiple of 16`}},
		{"profiles not tables", `kind = "transfer"`, `profile = 1`, []string{`s.toml:2: profile: wants tables such as [profile.quick], not 1`}},
		{"profile not a table", `kind = "transfer"`, `profile.quick = 1`, []string{`s.toml:2: profile.quick: wants a table, not 1`}},
		{"misspelt key in a profile", "", "[profile.p]\nnetwork.witdh = 8\n",
			[]string{`s.toml:14: profile.p.network.witdh: unknown key; nearest valid key: width`}},
		{"value in a profile", "", "[profile.p]\nnetwork.width = 9\n", []string{`s.toml:14: profile.p.network.width: must be even`}},
		{"value made impossible by a profile", "", "[profile.p]\ngrid.train_images = 512\ngrid.defocus = [0, 1]\n[source]\ndefocus = [100]\n",
			[]string{`s.toml:17: source.defocus: 100 is not among the study's domains: [0 1] (with profile p)`}},
		{"base and profile", "[1e-4]", "[-1]", []string{`s.toml:11: transfer.learning_rates: must be more than 0, but is -1`}},
		{"all at once", `kind = "transfer"`, "knd = 1\nseed = \"a\"\n[network]\nwidth = -2\n[label_blur]\nfoo = 1",
			[]string{`s.toml:2: knd: unknown key; nearest valid key: kind`, `s.toml:3: seed: wants a whole number`, `s.toml:5: network.width: must be even`,
				`s.toml:7: label_blur.foo: unknown crystal`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := minimal + c.new
			if c.old != "" {
				text = strings.Replace(minimal, c.old, c.new, 1)
				if text == minimal {
					t.Fatalf("%q is not in the minimal spec", c.old)
				}
			}
			_, err := Parse("s.toml", []byte(text))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an Error", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got\n%v\nwant\n%s", err, w)
				}
			}
			if len(e.Problems) != len(c.want) {
				t.Errorf("%d problems, want %d:\n%v", len(e.Problems), len(c.want), err)
			}
			for _, l := range strings.Split(err.Error(), "\n") {
				if !strings.HasPrefix(l, "s.toml:") {
					t.Errorf("no position in %q", l)
				}
			}
		})
	}
}

// Whatever key of a shipped spec gets a value of the wrong type, or is
// misspelt, the message names that key and that line. The oracle is the text
// itself: one line per key.
func TestEveryLineOfEverySpec(t *testing.T) {
	for _, series := range Series() {
		data, err := specs.FS.ReadFile(series + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(data), "\n")
		tested := 0
		for i, l := range lines {
			key, _, ok := strings.Cut(l, "=")
			key = strings.TrimSpace(key)
			if !ok || strings.HasPrefix(key, "#") {
				continue
			}
			tested++
			prefix := fmt.Sprintf("s.toml:%d: ", i+1)
			last := key[strings.LastIndex(key, ".")+1:]

			broken := append([]string{}, lines...)
			broken[i] = key + " = 1979-05-27"
			_, err := Parse("s.toml", []byte(strings.Join(broken, "\n")))
			if !hasLine(err, prefix, last+": wants ") {
				t.Errorf("%s with %q:\n%v", series, broken[i], err)
			}

			misspelt := key[:len(key)-1] + "_" + key[len(key)-1:]
			broken[i] = strings.Replace(l, key, misspelt, 1)
			_, err = Parse("s.toml", []byte(strings.Join(broken, "\n")))
			free := strings.Contains("dc_C bcc_Fe spinel_Co3O4 small large", key) || strings.Contains(key, "sizes.")
			if !hasLine(err, prefix, "unknown key; nearest valid key: "+last) && !free {
				t.Errorf("%s with %q:\n%v", series, broken[i], err)
			}
		}
		if tested < 15 {
			t.Errorf("only %d keys found in %s", tested, series)
		}
	}
}

func hasLine(err error, prefix, part string) bool {
	if err == nil {
		return false
	}
	for _, l := range strings.Split(err.Error(), "\n") {
		if strings.HasPrefix(l, prefix) && strings.Contains(l, part) {
			return true
		}
	}
	return false
}

func TestManyProblems(t *testing.T) {
	var b strings.Builder
	b.WriteString(minimal)
	for i := range 50 {
		fmt.Fprintf(&b, "k%d = 1\n", i)
	}
	_, err := Parse("s.toml", []byte(b.String()))
	if err == nil || !strings.HasSuffix(err.Error(), "\nand 30 more") {
		t.Errorf("got %v", err)
	}
}

// Nesting that would cost the library memory with its square is refused, and
// what passes is read quickly.
func TestHostileNesting(t *testing.T) {
	for name, text := range map[string]string{
		"huge file":            strings.Repeat("#", maxFileSize+1),
		"tables in tables":     "a=" + strings.Repeat("{a=", 20_000),
		"tables, line by line": "a=" + strings.Repeat("{\na=", 300),
		"long key":             strings.Repeat("a.", 20_000) + "b=1",
		"long header":          "[" + strings.Repeat("a.", 20_000) + "b]",
		"lists in lists":       "a=" + strings.Repeat("[", 20_000),
		"lists, line by line":  "a=" + strings.Repeat("[\n", 20_000),
		"many long keys":       strings.Repeat(strings.Repeat("a.", maxNesting)+"b=1\n", 100),
	} {
		_, err := Parse("s.toml", []byte(text))
		var e *Error
		if !errors.As(err, &e) || e.Problems[0].Line < 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFind(t *testing.T) {
	if _, err := Find("defocs"); err == nil || !strings.Contains(err.Error(), "nearest: defocus") {
		t.Errorf("misspelt series: %v", err)
	}
	if _, err := Find("./missing.toml"); err == nil || !strings.Contains(err.Error(), "reading spec ./missing.toml: no such file") {
		t.Errorf("missing file: %v", err)
	}
	f, err := Find("noise")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Study("papre"); err == nil || !strings.Contains(err.Error(), "nearest: paper") {
		t.Errorf("misspelt profile: %v", err)
	}
	s, err := f.Study("")
	if err != nil || s.Profile != DefaultProfile {
		t.Errorf("default profile is %q, %v", s.Profile, err)
	}
}

// Paths of own data are relative to the spec.
func TestOwnData(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "mine.toml")
	text := `name = "mine"
[domain.b]
images = "b.npy"
labels = "/data/b-labels.npy"
[domain.a]
images = "sub/a.npy"
labels = "a-labels.npy"
train_images = 20
validation_images = 5
size = 256
[source]
domain = ["a"]
[pretrain]
images = 16
learning_rates = [1e-3]
[transfer]
images = [4]
learning_rates = [1e-4]
frozen = ["none", "decoder"]
[profile.tiny]
domain.a.train_images = 16
`
	if err := os.WriteFile(spec, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := Find(spec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Study("") // there is no quick profile
	if err != nil || s.Profile != "" {
		t.Fatalf("profile %q, %v", s.Profile, err)
	}
	p, err := s.Expand()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Domains) != 2 || p.Models() != 2*3 {
		t.Fatalf("%d domains, %d models", len(p.Domains), p.Models())
	}
	a, b := p.Domains[0].Own, p.Domains[1].Own
	if a.Images[0] != filepath.Join(dir, "sub", "a.npy") || b.Labels[0] != "/data/b-labels.npy" || b.ValidationFraction != 0.2 || a.ValidationFraction != 0 {
		t.Errorf("own data %+v and %+v", a, b)
	}
	if r := p.Runs[1]; r.Source.Key != "a" || r.Target.Key != "b" || r.ID != "transfer_a_b_lr1e-3_1e-4_n4_none_s0" {
		t.Errorf("transfer from %s to %s called %s", r.Source.Key, r.Target.Key, r.ID)
	}
	if e := p.Estimate(); e.AssumedSize != 512 || e.Structures != 0 {
		t.Errorf("estimate %+v", e)
	}
	if s, err := f.Study("tiny"); err != nil || s.Own["a"].TrainImages != 16 || s.Own["a"].Size != 256 || f.base.Own["a"].TrainImages != 20 {
		t.Errorf("overlay of own data gives %+v, %v", s.Own["a"], err)
	}
}

// Own data may be combined with simulated domains.
func TestSimulatedToOwn(t *testing.T) {
	f, err := Parse("s.toml", []byte(minimal+`[domain.real]
images = "a.npy"
labels = "b.npy"
[source]
defocus = [-100, 100]
[target]
domain = ["real"]
`))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := f.Study("")
	p, err := s.Expand()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Domains) != 4 || p.Models() != 2*3 {
		t.Errorf("%d domains, %d models", len(p.Domains), p.Models())
	}
}

// Names of domains that would give two runs one name are refused.
func TestAmbiguousNames(t *testing.T) {
	var b strings.Builder
	b.WriteString("name = \"x\"\npretrain = { images = 1, learning_rates = [1e-3] }\n" +
		"transfer = { images = [1], learning_rates = [1e-4], frozen = [\"none\"] }\n")
	for _, d := range []string{"a", "b_c", "a_b", "c"} {
		fmt.Fprintf(&b, "[domain.%s]\nimages = \"i\"\nlabels = \"l\"\n", d)
	}
	f, err := Parse("s.toml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := f.Study("")
	if _, err := s.Expand(); err == nil || !strings.Contains(err.Error(), "two runs would be called") {
		t.Errorf("got %v", err)
	}
}

// A Study made in Go is checked like one from a file.
func TestExpandChecks(t *testing.T) {
	s := Defaults()
	_, err := s.Expand()
	if err == nil || !strings.Contains(err.Error(), "name: is missing") || !strings.Contains(err.Error(), "grid: no domains") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, series := range Series() {
		data, err := specs.FS.ReadFile(series + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range []string{
		minimal, "", "a", "[profile.x]", "profile = [1]", "[[profile]]", "[[profile.x.grid]]\na=1", "grid = [{a=1}]",
		"\"\" = 1", "a.\"b.c\".d = nan", "[domain.\"\"]", "domain = {a = {images = 1}}", "sizes = {\"\" = [1,2]}", "\xff", "\x00a=1",
		minimal + "[profile.p]\nsimulation.grid = 0\nsimulation.output=0\n",
		minimal + "[sizes]\na = [1e308, 1e308]\n", "x = 0x", "a=[[[[1]]]]", "a = 1e999", "[a]\n[a.b]\n[a]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("s.toml", data)
		if err != nil {
			if strings.HasPrefix(err.Error(), "s.toml:") || strings.HasPrefix(err.Error(), "reading s.toml: ") {
				return
			}
			t.Fatalf("no position in %q", err)
		}
		for _, profile := range append(file.Profiles(), "") {
			s, err := file.Study(profile)
			if err != nil {
				t.Fatal(err)
			}
			// A file that was accepted expands, unless it is large for a test or
			// two of its own names clash.
			if len(s.pairs(s.domains()))*s.configurations()*s.Training.Initialisations > 10_000 {
				continue
			}
			if p, err := s.Expand(); err == nil {
				p.Estimate()
			} else if !strings.Contains(err.Error(), "two runs would be called") {
				t.Fatalf("accepted, but: %v", err)
			}
		}
	})
}
