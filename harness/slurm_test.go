//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// cluster is a Slurm cluster on the loopback, for one test.
type cluster struct {
	t       *testing.T
	dir     string // of its configuration, state and logs
	jobs    string // where jobs run and write what they print
	conf    string
	env     []string
	daemons map[string]*exec.Cmd // by the name of their log
}

// startCluster starts slurmctld and slurmd as the current user, who need not be
// root, without munge, systemd or control groups. The test's end stops them and
// all jobs. gpus are how many the node pretends to have, as files.
func startCluster(t *testing.T, gpus int) *cluster {
	t.Helper()
	return newCluster(t, gpus, 1, "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
}

// newCluster starts a cluster of one node, or of several, n1, n2 and so on, which each
// have their own name for the machine: that takes root.
func newCluster(t *testing.T, gpus, nodes int, settings string) *cluster {
	t.Helper()
	const hint = "Debian: slurm-wlm"
	for _, p := range []string{"slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue"} {
		peers.Program(t, p, hint)
	}
	peers.Need(t, nodes == 1 || os.Getuid() == 0, "only root can give a machine several names")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	dir := t.TempDir()
	c := &cluster{t: t, dir: dir, jobs: filepath.Join(dir, "jobs"), conf: filepath.Join(dir, "slurm.conf"), daemons: map[string]*exec.Cmd{}}
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{c.jobs, bin, filepath.Join(dir, "state")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	gres := ""
	for i := range gpus {
		if err := os.Symlink("/dev/null", filepath.Join(dir, fmt.Sprintf("gpu%d", i))); err != nil { // it insists on devices
			t.Fatal(err)
		}
	}
	if gpus > 0 {
		gres = fmt.Sprintf(" Gres=gpu:%d", gpus)
		list := fmt.Sprintf("Name=gpu File=%s/gpu[0-%d]\n", dir, gpus-1)
		if err := os.WriteFile(filepath.Join(dir, "gres.conf"), []byte(list), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// A task that is queued again starts after cred_expire, and is looked for every
	// sched_interval, in seconds.
	conf := fmt.Sprintf(`ClusterName=refocus
SlurmctldHost=%[1]s(127.0.0.1)
SlurmUser=%[2]s
SlurmdUser=%[2]s
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SchedulerParameters=sched_interval=2
SlurmctldPort=%[3]d
SlurmctldPidFile=%[4]s/slurmctld.pid
SlurmdPidFile=%[4]s/slurmd.%%n.pid
SlurmctldLogFile=%[4]s/slurmctld.log
SlurmdLogFile=%[4]s/slurmd.%%n.log
StateSaveLocation=%[4]s/state
SlurmdSpoolDir=%[4]s/spool.%%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
`, host, me.Username, freePort(t), dir)
	names := []string{host}
	if nodes > 1 {
		names = nil
		for i := range nodes {
			names = append(names, fmt.Sprintf("n%d", i+1))
		}
	}
	for _, name := range names {
		if err := os.Mkdir(filepath.Join(dir, "spool."+name), 0o755); err != nil {
			t.Fatal(err)
		}
		// More CPUs than the machine may have, so that all tasks run at once.
		conf += fmt.Sprintf("NodeName=%s NodeAddr=127.0.0.1 Port=%d CPUs=4%s State=UNKNOWN\n", name, freePort(t), gres)
	}
	if err := os.WriteFile(c.conf, []byte(conf+settings+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asRefocus, self)
	if err := os.WriteFile(filepath.Join(bin, "refocus"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c.env = append(os.Environ(), "SLURM_CONF="+c.conf, "PATH="+bin+":"+os.Getenv("PATH"))

	// Cleanups run in reverse: end the jobs, stop the daemons, look for processes
	// that are left.
	t.Cleanup(func() {
		// A step's last process may need a moment.
		for range 600 {
			if len(c.processes("")) == 0 {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		left := c.processes("")
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		t.Errorf("Slurm left processes %v behind", left)
	})
	t.Cleanup(func() {
		for name := range c.daemons {
			c.stop(name)
		}
	})
	c.start("slurmctld", "slurmctld", "-D", "-f", c.conf)
	for _, name := range names {
		c.startNode(name)
	}
	t.Cleanup(func() {
		c.command("scancel", "--user="+me.Username).Run()
		for range 600 {
			if out, err := c.command("squeue", "--noheader").Output(); err != nil || len(out) == 0 {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error("Slurm did not end its jobs")
	})
	c.until("the nodes are idle", func() bool {
		out, _ := c.command("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").Output()
		states := strings.Fields(string(out))
		return strings.Join(states, " ") == strings.TrimSpace(strings.Repeat("idle ", nodes))
	})
	return c
}

// start starts a daemon, whose log is dir/name.log.
func (c *cluster) start(name, program string, args ...string) {
	c.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = c.env
	// Should the test be killed, its cluster goes with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if program == "sh" {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUTS
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.daemons[name] = cmd
}

// startNode starts the slurmd of a node, under which the machine has the node's name.
func (c *cluster) startNode(name string) {
	if host, err := os.Hostname(); err == nil && strings.HasPrefix(host+".", name+".") {
		c.start("slurmd."+name, "slurmd", "-D", "-f", c.conf)
		return
	}
	c.start("slurmd."+name, "sh", "-c", fmt.Sprintf("hostname %[1]s && exec slurmd -D -N %[1]s -f '%[2]s'", name, c.conf))
}

// stop ends a daemon.
func (c *cluster) stop(name string) {
	cmd := c.daemons[name]
	delete(c.daemons, name)
	cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	kill.Stop()
	if c.t.Failed() {
		b, _ := os.ReadFile(filepath.Join(c.dir, name+".log"))
		c.t.Logf("%s:\n%s", name, b)
	}
}

// freePort is a port that nothing listens on.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = c.jobs, c.env
	return cmd
}

// run runs a Slurm command and returns what it printed.
func (c *cluster) run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.command(name, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// processes are the cluster's daemons, steps and jobs, on all nodes or on that for which
// the machine has a name: their environment names its configuration.
func (c *cluster) processes(name string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte("SLURM_CONF="+c.conf+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && (name == "" || machine(pid) == name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// machine tells processes apart for which the machine has different names.
func machine(pid int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", pid))
	return name
}

// until waits for something, as long as the test has time but for cleaning up.
func (c *cluster) until(what string, is func() bool) {
	c.t.Helper()
	end, limited := c.t.Deadline()
	for ; !is(); time.Sleep(50 * time.Millisecond) {
		if limited && time.Until(end) < 3*time.Minute {
			c.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// log is what an array task has printed.
func (c *cluster) log(task int) string {
	b, _ := os.ReadFile(filepath.Join(c.jobs, fmt.Sprintf("%d.log", task)))
	return string(b)
}

// task is what Slurm knows of one task of an array.
func (c *cluster) task(array string, task int) string {
	c.t.Helper()
	return c.run("scontrol", "show", "job", "--oneliner", fmt.Sprintf("%s_%d", array, task))
}

// The documented batch script shares a study among the tasks of an array. A task
// that is told to stop, as Slurm does before its time limit, stops at a
// checkpoint and is queued again; a cancelled one is missed by nobody.
func TestSlurmArray(t *testing.T) {
	c := startCluster(t, 0)
	script, err := filepath.Abs("testdata/refocus.sbatch")
	if err != nil {
		t.Fatal(err)
	}
	spec := longer(t)
	alone := reproduceAlone(t, spec)
	want := fingerprint(t, alone)

	out := filepath.Join(c.jobs, "artifacts")
	free := hold(t, out, alone) // no task can be done before it is told to stop
	submitted := c.run("sbatch", "--parsable", "--array=1-3", "--cpus-per-task=1", "--output=%a.log",
		script, spec, "--out", out, "--json", "--jobs", "1", "--threads", "1")
	array, _, _ := strings.Cut(strings.TrimSpace(submitted), ";")
	t.Cleanup(func() {
		for task := 1; t.Failed() && task <= 3; task++ {
			t.Logf("task %d: %s\n%s", task, c.task(array, task), c.log(task))
		}
	})
	c.until("tasks train", func() bool {
		for task := 1; task <= 3; task++ {
			if !strings.Contains(c.log(task), "runs at once") {
				return false
			}
		}
		return true
	})
	// The last task's job number is that of the whole array: what is done to the
	// task must not be done to all.
	c.run("scancel", "--signal=INT", array+"_3")
	c.run("scancel", array+"_2")

	c.until("the interrupted task is queued again", func() bool {
		return strings.Contains(c.task(array, 3), "Restarts=1 ")
	})
	if said := c.log(3); !strings.Contains(said, "goes on from the last checkpoints") || !strings.Contains(said, "Exited with exit code 130") {
		t.Error("the interrupted task did not stop as it should")
	}
	c.until("the cancelled task has ended", func() bool { return strings.Contains(c.task(array, 2), "JobState=CANCELLED") })
	free()
	c.until("all tasks have ended", func() bool {
		return strings.TrimSpace(c.run("squeue", "--noheader")) == ""
	})
	for task, want := range map[int][]string{
		1: {"JobState=COMPLETED ", "Restarts=0 "},
		2: {"JobState=CANCELLED ", "Restarts=0 "},
		3: {"JobState=COMPLETED ", "Restarts=1 "},
	} {
		got := c.task(array, task)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("task %d, want %s: %s", task, w, got)
			}
		}
	}

	if fingerprint(t, out) != want {
		t.Error("the shared study has other results")
	}
	if _, said, code := output(t, "verify", "--out", out); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, said)
	}
	var said []string
	for task := 1; task <= 3; task++ {
		said = append(said, c.log(task))
	}
	trainedOnce(t, said)
}
