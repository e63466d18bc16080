package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/store"
)

// ReceiptFormat is the version of receipts.
const ReceiptFormat = 1

// Receipt is what was audited, how, and what came of it.
type Receipt struct {
	Format  int        `json:"format"`
	Harness string     `json:"harness"` // version of refocus
	Host    store.Host `json:"host"`    // that the audit was made on
	Time    time.Time  `json:"time"`    // when it ended, by the host's clock
	Verdict Verdict    `json:"verdict"`
	// Statements say for people what was found and what follows.
	Statements []string `json:"statements"`

	Subject Subject `json:"subject"`
	// Seed and the subject's root decide what was drawn.
	Seed       uint64  `json:"seed"`
	Confidence float64 `json:"confidence"` // of the statements
	// Epochs is of how many epochs runs were trained again at most, 0 for all.
	Epochs   int             `json:"epochs,omitempty"`
	Backends []store.Backend `json:"backends"` // that have trained again
	Runs     Drawn[Run]      `json:"runs"`
	Images   Drawn[Image]    `json:"images"`

	PublicKey string `json:"public_key"` // Ed25519, in hexadecimal digits
}

// Subject is what was audited.
type Subject struct {
	// Root is files.Root of the files of all finished runs and all sets of images,
	// under their paths in the store.
	Root  string `json:"root"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
	// Crate is the root of the crate that the store is in, where it is in one.
	Crate string `json:"crate,omitempty"`
	// Study is whose runs were audited; without one those of the whole store were.
	Study string `json:"study,omitempty"`
	// Missing is how many runs of the study the store lacks.
	Missing int `json:"missing,omitempty"`
	// OwnSets is how many sets of images are the user's own, which nobody can make
	// again from what the store holds.
	OwnSets int `json:"own_sets,omitempty"`
}

// Drawn is a sample of a population.
type Drawn[T any] struct {
	Population int `json:"population"`
	Sample     int `json:"sample"`
	Outcomes   []T `json:"outcomes"`
}

// Verdict of an audit.
type Verdict string

// Verdicts. An audit that is incomplete is no evidence for its subject.
const (
	Genuine    Verdict = "genuine"    // all that was drawn came out as the store has it
	False      Verdict = "false"      // something did not
	Incomplete Verdict = "incomplete" // something could not be done again
)

// Outcome of doing something again.
type Outcome string

// Outcomes.
const (
	SameBits   Outcome = "same bits"
	Within     Outcome = "within tolerances" // by other arithmetic, see the package's comment
	Differs    Outcome = "differs"
	NotAudited Outcome = "not audited"
)

// Run is the outcome of one run.
type Run struct {
	Digest  string  `json:"digest"`
	ID      string  `json:"id"`
	Outcome Outcome `json:"outcome"`
	// Epochs were trained again, of so many.
	Epochs int `json:"epochs"`
	Of     int `json:"of"`
	// Weights is whether the run has kept its weights, which were then validated. Where
	// they were dropped, a run that was trained again as a whole came to those that its
	// manifest lists, if bits were compared.
	Weights bool `json:"weights"`
	// Differences say where the store's run is not what came out, or why nothing did.
	Differences []string `json:"differences,omitempty"`
	// Arithmetic is that of the store's run, where it is not that of the audit.
	Arithmetic string `json:"arithmetic,omitempty"`
	// Distance is the greatest relative distance of a loss, and Limit the greatest that
	// was allowed, where bits were not compared.
	Distance float64 `json:"distance,omitempty"`
	Limit    float64 `json:"limit,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// Image is the outcome of one simulated image.
type Image struct {
	Set        string  `json:"set"`
	Index      int     `json:"index"`
	Outcome    Outcome `json:"outcome"`
	Difference string  `json:"difference,omitempty"`
}

// A receipt ends with a signature of all that stands before it, as a manifest with its
// seal. What is signed is signatureDomain and the receipt as it would be without.
const (
	signatureDomain                          = "refocus audit receipt\n"
	signatureBegin, signatureEnd             = ",\n  \"signature\": \"", "\"\n}\n"
	signatureLength                          = len(signatureBegin) + 2*ed25519.SignatureSize + len(signatureEnd)
	keyType                                  = "PRIVATE KEY"
	readableByOthers             fs.FileMode = 0o077
)

// Sign enters the key's public half and returns the receipt as a file.
func (r *Receipt) Sign(key ed25519.PrivateKey) ([]byte, error) {
	r.PublicKey = PublicKey(key)
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	signature := ed25519.Sign(key, append([]byte(signatureDomain), b...))
	out := bytes.NewBuffer(b[: len(b)-len("\n}\n") : len(b)-len("\n}\n")])
	out.WriteString(signatureBegin + hex.EncodeToString(signature) + signatureEnd)
	return out.Bytes(), nil
}

// VerifyReceipt reads a receipt and returns an error unless every byte of it is as it
// was signed, by the holder of the key that it names. Whose key that is nobody can tell
// from a receipt.
func VerifyReceipt(content []byte) (*Receipt, error) {
	n := len(content) - signatureLength
	if n < 0 || !bytes.HasPrefix(content[n:], []byte(signatureBegin)) || !bytes.HasSuffix(content, []byte(signatureEnd)) {
		return nil, errors.New("it does not end with a signature: it is no receipt of an audit, or not all of one")
	}
	digits := string(content[n+len(signatureBegin) : len(content)-len(signatureEnd)])
	signature, err := hex.DecodeString(digits)
	if err != nil || hex.EncodeToString(signature) != digits {
		return nil, errors.New("its signature is not written in hexadecimal digits")
	}
	body := append(content[:n:n], "\n}\n"...)
	var r Receipt
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fmt.Errorf("it was changed since it was signed, or is of another version of refocus: %w", err)
	}
	public, err := hex.DecodeString(r.PublicKey)
	if err != nil || len(public) != ed25519.PublicKeySize || !ed25519.Verify(public, append([]byte(signatureDomain), body...), signature) {
		return nil, errors.New("its signature does not fit: it was changed since it was signed")
	}
	if r.Format != ReceiptFormat {
		return nil, fmt.Errorf("it has format %d, this program reads format %d", r.Format, ReceiptFormat)
	}
	return &r, nil
}

// PublicKey is a key's public half, in hexadecimal digits.
func PublicKey(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}

// DefaultKey is where the user's key is.
func DefaultKey() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for the key that receipts are signed with (--key names one): %w", err)
	}
	return filepath.Join(dir, "refocus", "audit-key.pem"), nil
}

// MakeKey makes a key at path, for the user alone to read, unless there is one.
func MakeKey(path string) (made bool, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, err
	}
	if err := files.Mkdir(filepath.Dir(path)); err != nil {
		return false, err
	}
	return true, files.WriteSecret(path, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}))
}

// ReadKey reads an Ed25519 key as MakeKey or OpenSSL writes it (PKCS #8, PEM).
func ReadKey(path string) (ed25519.PrivateKey, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if m := st.Mode().Perm(); runtime.GOOS != "windows" && m&readableByOthers != 0 {
		return nil, fmt.Errorf("the key %s is open to others (%v), who could sign with it: chmod 600 %s, or have another one made", path, m, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != keyType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s is not a private key in PEM ('openssl genpkey -algorithm ed25519' makes one)", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", path, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key %s is a %T, not an Ed25519 key ('openssl genpkey -algorithm ed25519' makes one)", path, key)
	}
	return private, nil
}

// conclude fills in the verdict and the statements.
func (r *Receipt) conclude() {
	runs, images := map[Outcome]int{}, map[Outcome]int{}
	partly, dropped := false, 0
	for _, o := range r.Runs.Outcomes {
		runs[o.Outcome]++
		if !o.Weights && (o.Outcome == Within || o.Outcome == SameBits && o.Epochs < o.Of) {
			dropped++
		}
		partly = partly || o.Epochs < o.Of && o.Outcome != NotAudited
	}
	for _, o := range r.Images.Outcomes {
		images[o.Outcome]++
	}
	switch {
	case runs[Differs]+images[Differs] > 0:
		r.Verdict = False
	case runs[NotAudited]+images[NotAudited] > 0 || r.Runs.Sample == 0:
		r.Verdict = Incomplete
	default:
		r.Verdict = Genuine
	}
	r.Statements = nil
	say := func(format string, args ...any) { r.Statements = append(r.Statements, fmt.Sprintf(format, args...)) }
	about := func(what, drawn string, population, sample int, by map[Outcome]int) {
		if population == 0 {
			return
		}
		if by[Differs] > 0 {
			say("%d of the %d %s drawn from %d are not what their settings give: the store is not genuine.", by[Differs], sample, what, population)
			return
		}
		if by[NotAudited] > 0 {
			say("%d of the %d %s drawn from %d could not be done again, so that the sample says nothing of all.", by[NotAudited], sample, what, population)
			return
		}
		if sample == 0 {
			say("No %s of %d were drawn: of them nothing was found out.", what, population)
			return
		}
		text := fmt.Sprintf("All %d of %d %s that were drawn %s.", sample, population, what, drawn)
		if d := Bound(population, sample, r.Confidence); d > 1 {
			text += fmt.Sprintf(" Had %d or more (%s) of all %d been false, such a sample would have held a false one with a probability of at least %s: with that confidence fewer are.",
				d, format.Percent(float64(d)/float64(population)), population, format.Percent(r.Confidence))
		}
		say("%s", text)
	}
	how := "came out again with the same bits"
	if n := runs[Within]; n > 0 {
		how = fmt.Sprintf("came out again, %d with the same bits and %d, by other arithmetic than theirs, within tolerances", runs[SameBits], n)
	}
	about("runs", how, r.Runs.Population, r.Runs.Sample, runs)
	if partly {
		say("Of runs longer than %d epochs only these were trained again, and the weights that they keep were validated: what the statement on runs says, it says of these.", r.Epochs)
	}
	if dropped > 0 {
		say("The weights of %d of the runs were dropped, and of these nothing was found out.", dropped)
	}
	about("simulated images", "were simulated again with the same bits", r.Images.Population, r.Images.Sample, images)
	if n := r.Subject.Missing; n > 0 {
		say("%d runs of the study are not in the store; the statement is on the others.", n)
	}
	if n := r.Subject.OwnSets; n > 0 {
		say("%d sets of images are somebody's own: what the runs were trained on is what these hold, and whether they are what was photographed no audit can tell.", n)
	}
}

// Failed lists what differs or could not be done again, a line each.
func (r *Receipt) Failed() []string {
	var lines []string
	for _, o := range r.Images.Outcomes {
		if o.Outcome == Differs || o.Outcome == NotAudited {
			lines = append(lines, fmt.Sprintf("image %d of set %.12s: %s: %s", o.Index, o.Set, o.Outcome, o.Difference))
		}
	}
	for _, o := range r.Runs.Outcomes {
		if o.Outcome != Differs && o.Outcome != NotAudited {
			continue
		}
		for _, d := range o.Differences {
			lines = append(lines, fmt.Sprintf("run %s (%.12s): %s: %s", o.ID, o.Digest, o.Outcome, d))
		}
	}
	return slices.Clip(lines)
}
