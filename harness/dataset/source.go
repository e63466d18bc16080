package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/internal/bounds"

	"github.com/refocus-em/refocus/harness/hrtem"
)

// Format is the version of this package's files and of its use of random
// streams. It enters every digest and is raised when either changes.
const Format = 1

// Splits of a study's structures.
const (
	Train      = "train"
	Validation = "validation"
)

// maxCount bounds the images of one set, so that a mistyped number is refused
// and not tried.
const maxCount = 1 << 20

// Source determines one set of simulated images.
type Source struct {
	Config     hrtem.Config
	Conditions hrtem.Conditions
	// Seed is the study seed and Split names the structures drawn from it:
	// Train, Validation or another name. Different splits share no structure.
	Seed  uint64
	Split string
	// Count is the number of structures, one image each.
	Count int
}

// specimens determines a set of exit waves.
type specimens struct {
	Format    int          `json:"format"`
	Generator int          `json:"generator"`
	Config    hrtem.Config `json:"config"`
	Seed      uint64       `json:"seed"`
	Split     string       `json:"split"`
}

func (s Source) specimens() specimens {
	return specimens{Format, hrtem.Version, s.Config, s.Seed, s.Split}
}

// imaging determines image i of a set of any size: it names the random stream
// of defocus spread and counting noise.
type imaging struct {
	specimens
	Conditions hrtem.Conditions `json:"conditions"`
}

func (s Source) imaging() imaging { return imaging{s.specimens(), s.Conditions} }

// Digest is the SHA-256 that names the set's folder. The source must be one that
// Validate accepts.
func (s Source) Digest() string {
	return digestOf(struct {
		imaging
		Count int `json:"count"`
	}{s.imaging(), s.Count})
}

// Specimens is the digest that names the folder of the exit waves, shared by all
// conditions and counts.
func (s Source) Specimens() string { return digestOf(s.specimens()) }

// digestOf hashes the JSON form, in which Go fixes the order of fields and the
// spelling of numbers.
func digestOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("dataset: digest of a source that was not validated: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Validate reports everything that makes the source impossible.
func (s Source) Validate() error {
	var errs []error
	if err := s.Config.Validate(); err != nil {
		errs = append(errs, err)
	}
	for _, p := range s.Conditions.Check() {
		errs = append(errs, fmt.Errorf("%s %s", p.Key, p.Message))
	}
	if message := bounds.Integer(s.Count, 1, maxCount); message != "" {
		errs = append(errs, fmt.Errorf("the number of images %s", message))
	}
	if s.Split == "" {
		errs = append(errs, errors.New("the split has no name"))
	}
	return errors.Join(errs...)
}
