package store

import (
	"encoding/json"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// ManifestFormat is the version of the manifest's layout. Format 1 had no seal
// (files.SealJSON); its manifests are read as they are.
const ManifestFormat = 2

// Manifest says what a run is, what produced it and what its files are.
type Manifest struct {
	Format int    `json:"format"`
	Digest string `json:"digest"`
	ID     string `json:"id"` // the run's readable name within its study
	Study  string `json:"study"`
	// StudyDigest is the SHA-256 of the study's resolved spec.
	StudyDigest string `json:"study_digest,omitempty"`
	// Spec is what the digest hashes, fully resolved.
	Spec  json.RawMessage `json:"spec"`
	Files []files.File    `json:"files"`

	Backend Backend `json:"backend"`
	Harness string  `json:"harness"` // version of refocus
	Host    Host    `json:"host"`

	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	// Seconds spent in training and validation, summed over all attempts.
	TrainSeconds    float64 `json:"train_seconds"`
	EvaluateSeconds float64 `json:"evaluate_seconds"`
	// Restarts counts how often the backend failed and the run went on from a
	// checkpoint.
	Restarts int `json:"restarts"`
	// Notes records what was asked for and not applied, with the reason: a
	// power cap, a precision.
	Notes []string `json:"notes,omitempty"`
}

// Backend names the plugin that produced a run.
type Backend struct {
	Name        string `json:"name"`
	Version     string `json:"version"`
	Numerics    string `json:"numerics"`
	Determinism string `json:"determinism"`
	Device      string `json:"device"`
	Driver      string `json:"driver,omitempty"` // of a GPU
	Precision   string `json:"precision"`
	Threads     int    `json:"threads"`
	SHA256      string `json:"sha256,omitempty"` // of the executable
}

// Host is the machine a run was made on.
type Host struct {
	Name string `json:"name"`
	OS   string `json:"os"`
	CPU  string `json:"cpu"`
}

// History is what a run measured after each epoch. It holds no times, so that
// the same run always has the same bytes.
type History struct {
	Stage  string  `json:"stage"` // "pretrain", "transfer" or "single"
	Target string  `json:"target"`
	Epochs []Epoch `json:"epochs"`
	// Best is the number, from 1, of the epoch with the lowest validation loss
	// on Target: the epoch whose weights the run keeps.
	Best int `json:"best"`
}

// Epoch is one pass over the training samples and the validation that follows.
type Epoch struct {
	LearningRate float64 `json:"learning_rate"`
	TrainLoss    float64 `json:"train_loss"` // mean over the epoch's batches, each before its update
	// Skipped counts the optimiser steps that mixed precision skipped because
	// gradients overflowed.
	Skipped    int              `json:"skipped,omitempty"`
	Validation map[string]Score `json:"validation"` // by domain
}

// Score is the outcome of one validation set.
type Score struct {
	// Loss is the mean over the images, with the constant offset ln(1+e⁻¹) of
	// the study's loss still in it.
	Loss float64 `json:"loss"`
	// Dice is 2TP/(2TP+FP+FN) of the foreground over all pixels.
	Dice float64 `json:"dice"`
}

// BestLoss is the lowest validation loss on a domain over all epochs.
func (h *History) BestLoss(domain string) (float64, bool) {
	best, found := 0.0, false
	for _, e := range h.Epochs {
		if s, ok := e.Validation[domain]; ok && (!found || s.Loss < best) {
			best, found = s.Loss, true
		}
	}
	return best, found
}
