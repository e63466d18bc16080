package export

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// javaProgram compiles a program of testdata/java, with the sources that it needs
// beside the libraries in $REFOCUS_JAVA, and returns what runs it with arguments.
func javaProgram(t *testing.T, name, sources string, resources ...string) func(args ...string) string {
	t.Helper()
	jars := os.Getenv("REFOCUS_JAVA")
	peers.Need(t, jars != "", "$REFOCUS_JAVA names no folder of Java libraries (mvn -f harness/onnx/export/testdata/java/pom.xml dependency:copy-dependencies -DoutputDirectory=DIR)")
	peers.Program(t, "javac", "Debian: openjdk-17-jdk-headless")
	classes := t.TempDir()
	jars = filepath.Join(jars, "*")
	cmd := exec.Command("javac", "-nowarn", "-proc:none", "-cp", jars, "-sourcepath", sources, "-d", classes, filepath.Join("testdata", "java", name+".java"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(args ...string) string {
		t.Helper()
		path := strings.Join(append([]string{jars, classes}, resources...), string(os.PathListSeparator))
		// what JavaCPP unpacks its libraries to
		cmd := exec.Command("java", append([]string{"-Dorg.bytedeco.javacpp.cachedir=" + filepath.Join(classes, "cache"), "-cp", path, name}, args...)...)
		var words strings.Builder
		cmd.Stderr = &words
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, words.String())
		}
		return strings.TrimSpace(string(out))
	}
}

// unpacked writes a package, and its files to a folder of their own.
func unpacked(t *testing.T, m Model) (path, folder string) {
	t.Helper()
	path, folder = filepath.Join(t.TempDir(), "model.zip"), t.TempDir()
	o := without
	o.Format = BioImageIO
	if _, err := Write(context.Background(), path, m, o); err != nil {
		t.Fatal(err)
	}
	for name, data := range unzip(t, path) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, folder
}

// QuPath's own parser, its sources in testdata, opens the package and its folder and
// understands what refocus means.
func TestQuPath(t *testing.T) {
	qupath := javaProgram(t, "QuPath", filepath.Join("testdata", "java", "qupath"))
	path, folder := unpacked(t, model(t))
	want := "0.4.10|Discs in noise -5 nm defocus|CC-BY-4.0|weights.onnx|4|zero_mean_unit_variance|" +
		"[1, 1, 336, 336]|[0, 0, 16, 16]|[test_input.npy]|[test_output.npy]|probabilities"
	if got := qupath(path, folder); got != want+"\n"+want {
		t.Errorf("QuPath understood\n%s\nwant, twice,\n%s", got, want)
	}
}

// JDLL, by which deepImageJ and Icy open models, opens the package's folder and knows
// an engine for its weights. Its sources, of release 0.5.9, are in the folder
// $REFOCUS_JDLL; no registry has them.
func TestJDLL(t *testing.T) {
	jdll := os.Getenv("REFOCUS_JDLL")
	if jdll == "" {
		t.Skip("$REFOCUS_JDLL names no sources of JDLL (github.com/bioimage-io/JDLL, dl-modelrunner-0.5.9); its libraries: mvn -P jdll")
	}
	run := javaProgram(t, "JDLL", filepath.Join(jdll, "src", "main", "java"), filepath.Join(jdll, "src", "main", "resources"))
	_, folder := unpacked(t, model(t))
	got := run(filepath.Join(folder, "rdf.yaml"))
	for _, want := range []string{"0.4.10|Discs in noise -5 nm defocus|CC-BY-4.0|", "onnx", "|bcyx|float32|zero_mean_unit_variance|[1, 1, 336, 336]|[0, 0, 16, 16]|test_input.npy|probabilities"} {
		if !strings.Contains(got, want) {
			t.Errorf("JDLL understood %q, which lacks %q", got, want)
		}
	}
}

// QuPath's build of OpenCV runs the exported model.
func TestOpenCVInJava(t *testing.T) {
	opencv := javaProgram(t, "OpenCV", ".")
	g := testnet.Trained(t)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{SamePadding: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	model, in, out := filepath.Join(dir, "model.onnx"), filepath.Join(dir, "in"), filepath.Join(dir, "out")
	for _, shape := range [][]int{{1, 1, 64, 96}, {3, 1, 32, 48}} {
		x := testnet.Noise(shape...)
		var raw []byte
		for _, v := range x.F32 {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		for name, b := range map[string][]byte{model: data, in: raw} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := []string{model, in, out}
		for _, d := range shape {
			args = append(args, strconv.Itoa(d))
		}
		version := opencv(args...)
		b := read(t, out)
		got := make([]float32, len(b)/4)
		for i := range got {
			got[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		// Two float32 evaluations of one network differ by a few 1e-6.
		d := difference(got, testnet.Predict(t, g, x).F32)
		t.Logf("OpenCV %s, images %v: differs by %.2g", version, shape, d)
		if d > 1e-5 {
			t.Errorf("images %v: differ by %g", shape, d)
		}
	}
}
