// Package consumer runs ONNX models in the programs that people will run them
// in: ONNX Runtime, OpenCV in two versions, and the reference checker; and the PyTorch
// weights of packages in PyTorch.
//
// Each is a separate process running one of the small scripts beside this
// file. A consumer that is not installed is no error: it says what is missing,
// and the caller records that. Node packages are looked for in
// $REFOCUS_NODE_MODULES, then in ./node_modules; Python is $REFOCUS_PYTHON,
// then that of $VIRTUAL_ENV or $CONDA_PREFIX, then python3 and python on the path,
// then /usr/bin/python3: the first that has the modules.
//
// A script is called with two paths. It reads from the first
//
//	{"node_modules": "/…", "runs": [{"model", "input", "shape", "output"}, …]}
//
// in which input and output are files of raw little-endian float32, and writes
// to the second, per run, either the output's shape and the CPU time or an
// error:
//
//	{"version": "1.2.3", "runs": [{"shape": [1,2,32,48], "seconds": 0.1}, {"error": "…"}]}
//
// Every consumer computes on one thread.
package consumer

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed ort.mjs
var ortScript string

//go:embed ort.py
var ortPythonScript string

//go:embed opencv.mjs
var opencvJSScript string

//go:embed opencv.py
var opencvScript string

//go:embed checker.py
var checkerScript string

//go:embed pytorch.py
var pytorchScript string

// Consumer is an outside program that reads ONNX models.
type Consumer struct {
	Name     string
	Install  string // the command that gets it
	Predicts bool   // false: it only checks the file

	ways []way // to run it, the first that is installed
}

// way is a script and the Node packages or Python modules that it needs.
type way struct {
	script  string
	modules []string
}

// The consumers.
var (
	ONNXRuntime = Consumer{"ONNX Runtime", "pip install onnxruntime", true, []way{
		{ortScript, []string{"onnxruntime-node"}}, {ortPythonScript, []string{"onnxruntime", "numpy"}}}}
	OpenCV   = Consumer{"OpenCV DNN", "pip install opencv-python-headless", true, []way{{opencvScript, []string{"cv2", "numpy"}}}}
	OpenCVJS = Consumer{"OpenCV DNN (JavaScript)", "npm i @opencvjs/web@4.13.0-release.1", true, []way{{opencvJSScript, []string{"@opencvjs/web"}}}}
	Checker  = Consumer{"onnx checker", "pip install onnx", false, []way{{checkerScript, []string{"onnx"}}}}
	// PyTorch runs no ONNX but the state dict of a package of the BioImage Model Zoo,
	// beside its network.py.
	PyTorch = Consumer{"PyTorch", "pip install torch", true, []way{{pytorchScript, []string{"torch", "numpy"}}}}
)

// All lists the consumers of ONNX.
func All() []Consumer { return []Consumer{ONNXRuntime, OpenCV, OpenCVJS, Checker} }

// Run is one prediction to make.
type Run struct {
	Model string // path of the file
	Shape []int  // of the images, [N,C,H,W]
	Data  []float32
}

// Result is the outcome of a Run: an output, or why there is none.
type Result struct {
	Shape   []int
	Data    []float32
	Seconds float64 // CPU time of the prediction; the first of a model includes its preparation
	Err     error
}

// ErrMissing is wrapped by the error of a consumer that is not installed.
var ErrMissing = errors.New("not installed")

// Predict makes the runs in one process and returns the consumer's version.
func (c Consumer) Predict(ctx context.Context, runs []Run) (version string, results []Result, err error) {
	found, err := c.find(ctx)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "refocus-consumer-")
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(dir)
	version, results, err = c.predict(ctx, found, dir, runs)
	if err != nil {
		return "", nil, fmt.Errorf("running %s: %w", c.Name, err)
	}
	return version, results, nil
}

func (c Consumer) predict(ctx context.Context, found place, dir string, runs []Run) (string, []Result, error) {
	type job struct {
		Model  string `json:"model"`
		Input  string `json:"input"`
		Shape  []int  `json:"shape"`
		Output string `json:"output"`
	}
	jobs := struct {
		NodeModules string `json:"node_modules"`
		Runs        []job  `json:"runs"`
	}{NodeModules: found.nodeModules, Runs: []job{}}
	for i, r := range runs {
		model, err := filepath.Abs(r.Model)
		if err != nil {
			return "", nil, err
		}
		j := job{model, filepath.Join(dir, fmt.Sprintf("in%d", i)), r.Shape, filepath.Join(dir, fmt.Sprintf("out%d", i))}
		b := make([]byte, 0, 4*len(r.Data))
		for _, v := range r.Data {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		if err := os.WriteFile(j.Input, b, 0o600); err != nil {
			return "", nil, err
		}
		jobs.Runs = append(jobs.Runs, j)
	}
	in, out := filepath.Join(dir, "jobs.json"), filepath.Join(dir, "answer.json")
	b, err := json.Marshal(jobs)
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(in, b, 0o600); err != nil {
		return "", nil, err
	}
	name := "script.py"
	if found.nodeModules != "" {
		name = "script.mjs"
	}
	script := filepath.Join(dir, name)
	if err := os.WriteFile(script, []byte(found.script), 0o600); err != nil {
		return "", nil, err
	}
	var words bytes.Buffer
	cmd := exec.CommandContext(ctx, found.program, script, in, out)
	cmd.Stdout, cmd.Stderr = &words, &words
	runErr := cmd.Run()
	if b, err = os.ReadFile(out); err != nil {
		if runErr == nil {
			runErr = err
		}
		return "", nil, fmt.Errorf("%w: %s", runErr, tail(words.String()))
	}
	var answer struct {
		Version string `json:"version"`
		Runs    []struct {
			Shape   []int   `json:"shape"`
			Seconds float64 `json:"seconds"`
			Error   string  `json:"error"`
		} `json:"runs"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return "", nil, fmt.Errorf("reading its answer: %w", err)
	}
	if len(answer.Runs) != len(runs) {
		return "", nil, fmt.Errorf("%d answers to %d runs", len(answer.Runs), len(runs))
	}
	results := make([]Result, len(runs))
	for i, a := range answer.Runs {
		switch {
		case a.Error != "":
			results[i].Err = errors.New(a.Error)
		case c.Predicts:
			results[i] = readOutput(jobs.Runs[i].Output, a.Shape)
			results[i].Seconds = a.Seconds
		}
	}
	return answer.Version, results, nil
}

func readOutput(path string, shape []int) Result {
	b, err := os.ReadFile(path)
	if err != nil {
		return Result{Err: err}
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	if len(b) != 4*n {
		return Result{Err: fmt.Errorf("%d bytes do not fill an output of shape %v", len(b), shape)}
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return Result{Shape: shape, Data: data}
}

// Installed returns nil, or an error that wraps ErrMissing and says what to
// install.
func (c Consumer) Installed(ctx context.Context) error {
	_, err := c.find(ctx)
	return err
}

// Version asks an installed consumer for its version and says which program runs
// it.
func (c Consumer) Version(ctx context.Context) (version, program string, err error) {
	found, err := c.find(ctx)
	if err != nil {
		return "", "", err
	}
	version, _, err = c.Predict(ctx, nil)
	if found.nodeModules != "" {
		return version, found.nodeModules, err
	}
	return version, found.program, err
}

// place is where a consumer was found: the interpreter of a script, and for Node
// the folder of the packages.
type place struct{ script, program, nodeModules string }

func (c Consumer) find(ctx context.Context) (place, error) {
	var tried []string
	for _, w := range c.ways {
		var p place
		var missing string
		if strings.HasPrefix(w.script, "//") {
			p, missing = w.node()
		} else {
			p, missing = w.python(ctx)
		}
		if ctx.Err() != nil {
			return place{}, ctx.Err()
		}
		if missing == "" {
			return p, nil
		}
		tried = append(tried, missing)
	}
	return place{}, fmt.Errorf("%s: %s (%s): %w", c.Name, strings.Join(tried, "; "), c.Install, ErrMissing)
}

func (w way) python(ctx context.Context) (p place, missing string) {
	// a folder of a module's name where we run is no module
	code := "import sys\nsys.path = [p for p in sys.path if p]\n"
	for _, m := range w.modules {
		code += "import " + m + "\n"
	}
	programs := []string{os.Getenv("REFOCUS_PYTHON")}
	for _, env := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if dir := os.Getenv(env); dir != "" {
			programs = append(programs, filepath.Join(dir, "bin", "python"), filepath.Join(dir, "Scripts", "python.exe"), filepath.Join(dir, "python.exe"))
		}
	}
	for _, program := range append(programs, "python3", "python", "/usr/bin/python3") {
		if program == "" {
			continue
		}
		if path, err := exec.LookPath(program); err == nil && exec.CommandContext(ctx, path, "-c", code).Run() == nil {
			return place{w.script, path, ""}, ""
		}
	}
	return place{}, "no Python that can import " + strings.Join(w.modules, ", ")
}

func (w way) node() (p place, missing string) {
	node, err := exec.LookPath("node")
	if err != nil {
		return place{}, "node is not on the path"
	}
	var tried []string
	for _, dir := range []string{os.Getenv("REFOCUS_NODE_MODULES"), "node_modules"} {
		if dir == "" {
			continue
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return place{}, err.Error()
		}
		found := true
		for _, m := range w.modules {
			_, err := os.Stat(filepath.Join(dir, m, "package.json"))
			found = found && err == nil
		}
		if found {
			return place{w.script, node, dir}, ""
		}
		tried = append(tried, dir)
	}
	return place{}, fmt.Sprintf("no %s in %s", strings.Join(w.modules, ", "), strings.Join(tried, " or "))
}

// tail is the end of what a program said, on one line.
func tail(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 500
	if len(s) > most {
		s = "…" + strings.ToValidUTF8(s[len(s)-most:], "")
	}
	return s
}
