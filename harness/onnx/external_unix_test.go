//go:build unix

package onnx_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// A named pipe in place of a file of weights is refused, not waited at.
func TestExternalPipe(t *testing.T) {
	data, err := onnx.Marshal(testnet.Random(t, 2), onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	model, _ := split(t, data, func(int, int) map[string]string { return map[string]string{"location": "pipe"} })
	dir := t.TempDir()
	path := filepath.Join(dir, "net.onnx")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Skip(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := onnx.ReadFile(path, onnx.ReadOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "is no file") {
			t.Errorf("error %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("waits at the pipe")
	}
}
