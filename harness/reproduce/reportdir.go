package reproduce

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/files"
)

// OwnerFile in a report's folder says which study it is of.
const OwnerFile = "study.json"

// owner tells studies of one name apart.
type owner struct {
	Study   string `json:"study"`
	Profile string `json:"profile,omitempty"`
	// Runs is the SHA-256 of the digests of all runs.
	Runs string `json:"runs"`
}

func (r *Resolved) owner() owner {
	h := sha256.New()
	for _, n := range r.Nodes {
		fmt.Fprintln(h, n.Digest)
	}
	return owner{r.Plan.Study.Name, r.Plan.Study.Profile, hex.EncodeToString(h.Sum(nil))}
}

// ReportDir is the folder of the study's report. Where the folder of its name holds the
// report of another study that is called so too, it is that name with the beginning of
// the digest of the study's runs.
func (r *Resolved) ReportDir() string {
	name := r.Plan.Study.Name + "-" + r.Plan.Study.ProfileName()
	if r.Backend.Name != "cpu" {
		name += "-" + r.Backend.Name
	}
	dir, own := r.Store.Report(name), r.owner()
	var other owner
	b, err := os.ReadFile(filepath.Join(dir, OwnerFile))
	if err == nil && json.Unmarshal(b, &other) == nil && other.Runs != own.Runs {
		return dir + "-" + own.Runs[:12]
	}
	return dir
}

// ClaimReportDir makes the folder of the study's report and keeps it from other studies
// of the name.
func (r *Resolved) ClaimReportDir() (string, error) {
	b, err := json.MarshalIndent(r.owner(), "", "  ")
	if err != nil {
		return "", err
	}
	for {
		dir := r.ReportDir()
		if err := files.Mkdir(dir); err != nil {
			return "", err
		}
		if err := files.Write(filepath.Join(dir, OwnerFile), append(b, '\n')); err != nil {
			return "", err
		}
		if r.ReportDir() == dir { // or another study has been at it in this moment
			return dir, nil
		}
	}
}
