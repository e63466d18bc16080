//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// seventy is a study of 70 runs: the tiny one, from 14 random beginnings.
func seventy(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	s := strings.Replace(string(b), "initialisations  = 1", "initialisations  = 14", 1)
	path := filepath.Join(t.TempDir(), "seventy.toml")
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The ways in which a cluster interrupts tasks. Each is done to those that run on one of
// the three nodes, and returns when Slurm has queued or ended them.
var interruptions = map[string]func(c *cluster, node string){
	// A node dies, with everything on it, and comes back.
	"node": func(c *cluster, node string) {
		daemon := c.daemons["slurmd."+node]
		delete(c.daemons, "slurmd."+node)
		name := machine(daemon.Process.Pid)
		for pids := c.processes(name); len(pids) > 0; pids = c.processes(name) {
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		daemon.Wait()
		c.run("scontrol", "update", "NodeName="+node, "State=DOWN", "Reason=test")
		c.until("nothing runs on the dead node", func() bool { return len(c.on(node)) == 0 })
		c.startNode(node)
		c.run("scontrol", "update", "NodeName="+node, "State=RESUME")
	},
	// Somebody's urgent job takes the node.
	"preemption": func(c *cluster, node string) {
		c.run("sbatch", "--partition=urgent", "--nodelist="+node, "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
		c.until("the urgent job has come and gone", func() bool {
			return strings.TrimSpace(c.run("squeue", "--noheader", "--partition=urgent")) == ""
		})
	},
	// The time limit comes; Slurm looks at limits every half a minute.
	"limit": func(c *cluster, node string) {
		tasks := c.on(node)
		for _, task := range tasks {
			c.run("scontrol", "update", "JobId="+task, "TimeLimit=1")
		}
		for _, task := range tasks {
			c.until("the time of "+task+" is up", func() bool {
				s := c.run("scontrol", "show", "job", "--oneliner", task)
				return !strings.Contains(s, "Restarts=0 ") || !strings.Contains(s, "JobState=RUNNING ") && !strings.Contains(s, "JobState=COMPLETING ")
			})
			c.run("scontrol", "update", "JobId="+task, "TimeLimit=60") // which it had when it was submitted
		}
	},
}

// on are the tasks that run on a node, as array_task.
func (c *cluster) on(node string) []string {
	return strings.Fields(c.run("squeue", "--noheader", "--nodelist="+node, "--states=RUNNING,COMPLETING,CONFIGURING", "--partition=main", "--format=%i"))
}

// Whatever interrupts the tasks of the documented batch script (the end of their time,
// the death of a node, a preemption), Slurm runs them again until 70 of 70 runs are done,
// with the bits of an undisturbed study. Once here with all of these; REFOCUS_SLURM is
// how often each of them is done alone, too.
func TestSlurmInterruptions(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("REFOCUS_SLURM"))
	peers.Need(t, os.Getuid() == 0, "only root can give a machine several names")
	spec := seventy(t)
	alone := reproduceAlone(t, spec)
	all := []string{"node", "preemption", "limit"}
	t.Run("all", func(t *testing.T) { interrupted(t, spec, alone, all) })
	for i := range rounds {
		for _, kind := range all {
			t.Run(fmt.Sprintf("%s %d", kind, i+1), func(t *testing.T) { interrupted(t, spec, alone, []string{kind, kind, kind}) })
		}
	}
}

// interrupted runs a task on each of three nodes, one after another of which is disturbed.
func interrupted(t *testing.T, spec, alone string, kinds []string) {
	c := newCluster(t, 0, 3, `JobRequeue=1
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9`)
	script, err := filepath.Abs("testdata/refocus.sbatch")
	if err != nil {
		t.Fatal(err)
	}
	const tasks = 3
	out := filepath.Join(c.jobs, "artifacts")
	free := hold(t, out, alone) // no task can be done before all have been interrupted
	submitted := c.run("sbatch", "--parsable", fmt.Sprintf("--array=1-%d", tasks), "--cpus-per-task=4", "--output=%a.log", "--time=60",
		script, spec, "--out", out, "--json", "--jobs", "1", "--threads", "1", "--wait", "all")
	array, _, _ := strings.Cut(strings.TrimSpace(submitted), ";")
	t.Cleanup(func() {
		for task := 1; t.Failed() && task <= tasks; task++ {
			t.Logf("task %d: %s\n%s", task, c.task(array, task), c.log(task))
		}
	})
	working := func() bool {
		for task := 1; task <= tasks; task++ {
			if !strings.Contains(c.log(task), "runs at once") {
				return false
			}
		}
		return true
	}
	c.until("all tasks work", working)
	for i, kind := range kinds {
		node := fmt.Sprintf("n%d", i+1)
		c.until("tasks run on "+node, func() bool { return len(c.on(node)) > 0 })
		interruptions[kind](c, node)
	}
	free()
	c.until("70 of 70 runs are done", func() bool {
		done, _ := filepath.Glob(filepath.Join(out, "runs", "[0-9a-f]*"))
		return len(done) == 70
	})

	// The tasks now write the report, each of them, which takes the longest.
	restarts := 0
	for task := 1; task <= tasks; task++ {
		got := c.task(array, task)
		if !slices.ContainsFunc([]string{"RUNNING", "COMPLETING", "COMPLETED", "PENDING"}, func(s string) bool { return strings.Contains(got, "JobState="+s+" ") }) {
			t.Errorf("task %d has ended otherwise than by having completed", task)
		}
		_, n, _ := strings.Cut(got, "Restarts=")
		n, _, _ = strings.Cut(n, " ")
		k, _ := strconv.Atoi(n)
		restarts += k
	}
	if restarts < len(kinds) {
		t.Errorf("%d restarts after %d interruptions", restarts, len(kinds))
	}
	said, _, _ := output(t, "status", spec, "--out", out, "--json")
	var s struct{ Runs, Finished int }
	if err := json.Unmarshal([]byte(said), &s); err != nil || s.Runs != 70 || s.Finished != 70 {
		t.Errorf("%d of %d runs are done (%v)", s.Finished, s.Runs, err)
	}
	for _, path := range temporary(t, filepath.Join(out, "data")) { // what a dead node was writing, which is swept later
		os.Remove(path)
	}
	if fingerprint(t, out) != fingerprint(t, alone) {
		t.Error("the interrupted study has other results")
	}
	t.Logf("%s: %d restarts, %d of %d runs", strings.Join(slices.Compact(slices.Clone(kinds)), ", "), restarts, s.Finished, s.Runs)
}
