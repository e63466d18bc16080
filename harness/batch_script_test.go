//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// Run by bash, the batch script submits itself with the memory and the GPUs that
// 'refocus plan --task' tells of the same study, and says what is wrong with the command
// line instead of submitting it.
func TestBatchScriptAsksForWhatATaskTakes(t *testing.T) {
	bash := peers.Program(t, "bash", "the batch script is one of bash")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for name, text := range map[string]string{
		"refocus": asRefocus + "=1 exec '" + self + "' \"$@\"",
		"sbatch":  "echo sbatch \"$@\"",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"defocus", "--profile", "paper", "--out", "o", "--yes"}, `^sbatch --mem=[3-9]\d\d\dM testdata/refocus.sbatch defocus --profile paper --out o --yes\n$`},
		{[]string{"defocus", "--profile=quick", "--jobs", "1"}, `^sbatch --mem=[3-9]\d\dM testdata/refocus.sbatch defocus --profile=quick --jobs 1\n$`},
		{[]string{"defocsu"}, `^refocus: no series is called "defocsu"`},
	} {
		cmd := exec.Command(bash, append([]string{"testdata/refocus.sbatch"}, c.args...)...)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SLURM_JOB_ID=")
		if said, _ := cmd.CombinedOutput(); !regexp.MustCompile(c.want).Match(said) {
			t.Errorf("%q: %s", c.args, said)
		}
	}
}
