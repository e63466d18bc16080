//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

var gpuName = regexp.MustCompile(`an imagined GPU GPU-(\d+)`)

// Told to ask for GPUs, the batch script gives each task one of its own: to the tasks
// of an array, and to the tasks of one job.
func TestSlurmGPUs(t *testing.T) {
	c := startCluster(t, 2)
	script, err := filepath.Abs("testdata/refocus.sbatch")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := filepath.Abs("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is trained, so that none ends before the other has begun.
	path := fakePlugin(t, fakebackend.DevicesVariable+"="+fakebackend.Visible, fakebackend.HoldVariable+"="+filepath.Join(c.jobs, "never"))
	out := filepath.Join(c.jobs, "artifacts")
	submit := func(log string, args ...string) string {
		t.Helper()
		args = append(append([]string{"--parsable", "--cpus-per-task=1", "--output=" + log}, args...),
			script, spec, "--out", out, "--backend", path, "--allow-unlocked", "--devices", "all", "--threads", "1")
		id, _, _ := strings.Cut(strings.TrimSpace(c.run("sbatch", args...)), ";")
		return id
	}
	said := func(logs ...string) (all string) {
		for _, name := range logs {
			b, _ := os.ReadFile(filepath.Join(c.jobs, name))
			all += string(b)
		}
		return all
	}
	// Each sees one GPU, and another one than its neighbour, which runs meanwhile.
	apart := func(what string, logs ...string) {
		t.Helper()
		c.until(what+" train", func() bool { return strings.Count(said(logs...), "runs at once") == 2 })
		all := said(logs...)
		var ids []string
		for _, m := range gpuName.FindAllStringSubmatch(all, -1) {
			ids = append(ids, m[1])
		}
		if len(ids) != 2 || ids[0] == ids[1] || strings.Contains(all, "cuda:1") {
			t.Errorf("%s have the GPUs %v\n%s", what, ids, all)
		}
	}
	array := submit("array-%a.log", "--array=1-2", "--gres=gpu:1")
	apart("the tasks of an array", "array-1.log", "array-2.log")
	c.run("scancel", array)
	c.until("the array has ended", func() bool { return strings.TrimSpace(c.run("squeue", "--noheader")) == "" })

	submit("job.log", "--array=1", "--ntasks=2", "--gpus-per-task=1")
	apart("the tasks of a job", "job.log")
}
