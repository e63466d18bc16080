//go:build cuda

package gorgonia

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
)

// Every operator says that it runs on the device; what cannot is refused.
func TestCUDADescription(t *testing.T) {
	d, err := New("test").Describe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Devices) != 1 || d.Devices[0].Name != "cuda:0" {
		t.Fatalf("devices %v", d.Devices)
	}
	if len(d.Operators) != len(operators) {
		t.Errorf("operators %v", d.Operators)
	}
	for _, o := range d.Operators {
		if o.Device != "cuda" {
			t.Errorf("%s runs on %s", o.Type, o.Device)
		}
	}
	if _, err := New("test").Open(context.Background(), unet(t, 4), backend.Options{Device: "cuda:1"}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("device cuda:1: %v", err)
	}
	g := unet(t, 4)
	g.Nodes[0].Attrs["pads"] = []int64{2, 3, 4, 3}
	if _, err := New("test").Open(context.Background(), g, backend.Options{}); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), g.Nodes[0].Name) {
		t.Errorf("asymmetric padding: %v", err)
	}
}

// Without a usable driver the plugin says so in one line and ends, before
// package cu can write to standard output.
func TestCUDAUnusable(t *testing.T) {
	if os.Getenv("REFOCUS_STANDIN") == "" {
		t.Skip("the stand-in library is not in use (cuda/check.sh standin)")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]string{
		"no device":  "no CUDA-capable device is detected",
		"old driver": "is for CUDA 10.2, 11.0 is needed",
		"new cuDNN":  "cuDNN is version 9.1, version 8 is needed",
	} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "REFOCUS_STANDIN="+mode, servesPlugin+"=1")
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if cmd.Run() == nil {
			t.Errorf("%s: started", mode)
		}
		if s := stderr.String(); !strings.Contains(s, want) || strings.Count(s, "\n") != 1 || stdout.Len() > 0 {
			t.Errorf("%s: said %q and %q", mode, s, stdout.String())
		}
	}
}
