package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/store"
)

// paperSize is the study's own network, images, simulation and batches, of one
// pretraining and one transfer on a few images.
const paperSize = `name  = "papersize"
title = "One run at the study's own size"
kind  = "transfer"
seed  = 1

[network]
width = 64

[grid]
crystal           = ["w_CdSe"]
defocus           = [-100, 0]
dose              = [400.0]
train_images      = 4
validation_images = 1

[source]
defocus = [-100]

[pretrain]
epochs         = 1
images         = 4
learning_rates = [1e-4]

[transfer]
epochs         = 1
images         = [2]
learning_rates = [1e-5]
frozen         = ["none"]

[training]
batch           = 16
initialisations = 1
`

// What reproduce does on one machine it does at the study's own size.
func TestPaperSize(t *testing.T) {
	if os.Getenv("REFOCUS_PAPER") != "1" {
		t.Skip("six minutes: with REFOCUS_PAPER=1")
	}
	spec := filepath.Join(t.TempDir(), "papersize.toml")
	if err := os.WriteFile(spec, []byte(paperSize), 0o666); err != nil {
		t.Fatal(err)
	}
	said, _, _ := output(t, "plan", spec)
	for _, want := range []string{"width 64", "512×512", "1280×1280"} { // by default all is as published
		if !strings.Contains(said, want) {
			t.Fatalf("no %s in\n%s", want, said)
		}
	}
	out := t.TempDir()
	if _, said, code := output(t, "reproduce", spec, "--out", out); code != 0 {
		t.Fatalf("exit %d\n%s", code, said)
	}
	st, err := store.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	digests, err := st.Runs()
	if err != nil || len(digests) != 2 {
		t.Fatalf("runs %v, %v", digests, err)
	}
	for _, digest := range digests {
		var h store.History
		b, err := os.ReadFile(filepath.Join(st.RunDir(digest), store.HistoryFile))
		if err == nil {
			err = json.Unmarshal(b, &h)
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := st.Manifest(digest)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%s: loss %.4f, %.0f s of training, %.0f s of validation", m.ID, h.Epochs[0].TrainLoss, m.TrainSeconds, m.EvaluateSeconds)
		t.Log(text)
		// An untrained network's, ln 2 less what a softmax applied twice leaves, or better.
		if l := h.Epochs[0].TrainLoss; l < 0.3133 || l > 0.8 {
			t.Error(text)
		}
	}
}
