//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// warnings are what people and schedulers ask a program to stop with.
var warnings = []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGINT, syscall.SIGXCPU}

// longEpochs is a study whose pretraining has epochs that are long enough to be
// interrupted in.
func longEpochs(t *testing.T, width, images int) string {
	t.Helper()
	b, err := os.ReadFile("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	for _, change := range [][2]string{
		{"train_images      = 4", fmt.Sprintf("train_images      = %d", images)},
		{"epochs         = 3\nimages         = 4", fmt.Sprintf("epochs         = 2\nimages         = %d", images)},
		{"width = 4", fmt.Sprintf("width = %d", width)},
		{"crop      = 32", "crop      = 64"},
		{"defocus           = [-100, 0, 100]", "defocus           = [-100, 0]"},
		{`frozen         = ["none", "encoder"]`, `frozen         = ["none"]`},
		{"epochs         = 2\nimages         = [2]", "epochs         = 1\nimages         = [2]"},
	} {
		if !strings.Contains(s, change[0]) {
			t.Fatalf("tiny.toml has no %q", change[0])
		}
		s = strings.Replace(s, change[0], change[1], 1)
	}
	path := filepath.Join(t.TempDir(), "long.toml")
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// family is a process and all that it started.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children(all[i])...)
	}
	return all
}

// training waits until some attempt of a store's has its device, or the process ends.
func training(out string, done <-chan error) bool {
	for {
		records, _ := filepath.Glob(filepath.Join(out, "runs", ".attempts", "*", "*.json"))
		for _, path := range records {
			var a struct{ Device, Outcome string }
			if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &a) == nil && a.Device != "" && a.Outcome == "" {
				return true
			}
		}
		select {
		case <-done:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// withinEpoch reports whether a store has a checkpoint of an epoch that has begun.
func withinEpoch(out string) bool {
	paths, _ := filepath.Glob(filepath.Join(out, "runs", ".work", "*", "*", "checkpoint*"))
	for _, path := range paths {
		if f, err := safetensors.Open(path); err == nil {
			_, ok := f.Metadata["epoch"]
			f.Close()
			if ok {
				return true
			}
		}
	}
	return false
}

// A signal to all processes of a job, as schedulers send them, has what is being
// trained saved before anything ends, within an epoch too, and the same command goes on
// to the same bits: with every backend.
func TestSignalsToTheWholeJob(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, images int // for a second or so an epoch
		args          func(t *testing.T) []string
	}{
		{"cpu", 16, 20, func(t *testing.T) []string { return nil }},
		{"gorgonia", 16, 6, func(t *testing.T) []string {
			path := filepath.Join(t.TempDir(), plugin.Prefix+"gorgonia")
			build := exec.Command(peers.Program(t, "go", "it builds the plugin"), "build", "-o", path, "../plugins/gorgonia/cmd/refocus-backend-gorgonia")
			if said, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			return []string{"--backend", path, "--allow-unlocked"}
		}},
		{"torch", 8, 24, func(t *testing.T) []string {
			python := peers.Python(t, "torch", "numpy", "onnx", "cryptography", "grpc", "grpc_health")
			folder, err := filepath.Abs("../plugins/torch")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), plugin.Prefix+"torch")
			script := fmt.Sprintf("#!/bin/sh\nPYTHONPATH='%s' PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE exec '%s' -c 'from refocus_torch.server import main; main()'\n", folder, python)
			if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			return []string{"--backend", path, "--allow-unlocked"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := longEpochs(t, c.width, c.images)
			alone, out := t.TempDir(), t.TempDir()
			args := append([]string{"reproduce", spec, "--jobs", "1", "--threads", "1"}, c.args(t)...)
			if _, said, code := output(t, append(args, "--out", alone)...); code != 0 {
				t.Fatalf("exit %d\n%s", code, said)
			}
			within := 0
			// Longer each time, from less than a session takes to open by less than an epoch, so
			// that some interruption is within one and the study ends, on any machine.
			for i, wait := 0, 150*time.Millisecond; ; i, wait = i+1, wait*3/2 {
				cmd := refocus(append(args, "--out", out)...)
				var said transcript
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- cmd.Wait(); close(done) }()
				sig := warnings[i%len(warnings)]
				if training(out, done) {
					select {
					case <-time.After(wait):
					case <-done:
					}
					for _, pid := range family(cmd.Process.Pid) {
						syscall.Kill(pid, sig)
					}
				}
				<-done
				code := cmd.ProcessState.ExitCode()
				if code == 0 {
					t.Logf("%d interruptions, %d of them within an epoch", i, within)
					break
				}
				if code != cli.ExitInterrupted || !strings.Contains(said.String(), sig.String()) || strings.Contains(said.String(), "is lost") {
					t.Fatalf("after %v: exit %d, said\n%s", sig, code, &said)
				}
				if withinEpoch(out) {
					within++
				}
			}
			if within == 0 {
				t.Error("no interruption was within an epoch")
			}
			if fingerprint(t, out) != fingerprint(t, alone) {
				t.Error("the interrupted study has other results")
			}
		})
	}
}

// A command that waits for something else ends all the same when it is told to, though
// it cannot notice.
func TestStoppedWhileItWaits(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo.toml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := refocus("plan", fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var w *os.File // there is no writer without a reader
	for ; w == nil; time.Sleep(5 * time.Millisecond) {
		w, _ = os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	}
	defer w.Close()
	cmd.Process.Signal(syscall.SIGTERM)
	<-done
	if code := cmd.ProcessState.ExitCode(); code != cli.ExitInterrupted {
		t.Errorf("exit %d", code)
	}
}
