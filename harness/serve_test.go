package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/chromium"
	"github.com/refocus-em/refocus/harness/testkit/dmfile"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// workbench starts refocus serve over a store and returns its address.
func workbench(t *testing.T, store string, args ...string) string {
	t.Helper()
	cmd := refocus(append([]string{"serve", store, "--spec", "testdata/tiny.toml"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("interrupted, the workbench ends with %v: %s", err, errs.String())
		}
	})
	return strings.TrimSpace(line)
}

func tinyStore(t *testing.T) string {
	t.Helper()
	store := t.TempDir()
	if _, stderr, code := output(t, "reproduce", "testdata/tiny.toml", "--out", store); code != 0 {
		t.Fatal(stderr)
	}
	return store
}

// get asks for a page as a browser's user does, with some headers changed.
func get(t *testing.T, method, address string, headers map[string]string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html")
	for k, v := range headers {
		if k == "Host" {
			r.Host = v
		} else {
			r.Header.Set(k, v)
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == 200 && !strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%s has no Content-Security-Policy", address)
	}
	return res.StatusCode, string(b)
}

// Nobody without the token, and no other page, gets anything from the workbench or
// makes it do something.
func TestWorkbenchIsClosed(t *testing.T) {
	t.Parallel()
	base := workbench(t, t.TempDir())
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	if u.Hostname() != "127.0.0.1" || len(strings.Trim(u.Path, "/")) < 32 {
		t.Fatalf("the address is %s", base)
	}
	root := "http://" + u.Host
	for _, c := range []struct {
		what, method, address string
		headers               map[string]string
		want                  int
	}{
		{"its own page", "GET", base, nil, 200},
		{"its own script", "GET", base + "page/workbench.js", nil, 200},
		{"a link in a message", "GET", base, map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200},
		{"no token", "GET", root + "/", nil, 404},
		{"no token, a page", "GET", root + "/study", nil, 404},
		{"another token", "GET", root + "/" + strings.Repeat("0", 32) + "/", nil, 404},
		{"the token's beginning", "GET", base[:len(base)-3] + "/", nil, 404},
		{"a name that resolves here", "GET", base, map[string]string{"Host": "evil.example:" + u.Port()}, 421},
		{"another port", "GET", base, map[string]string{"Host": "127.0.0.1:1"}, 421},
		{"another origin", "GET", base, map[string]string{"Origin": "http://evil.example"}, 403},
		{"another server of this machine", "GET", base, map[string]string{"Origin": "http://127.0.0.1:1"}, 403},
		{"a sandboxed page", "GET", base, map[string]string{"Origin": "null"}, 403},
		{"an image in another page", "GET", base + "sheet.png", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403},
		{"a frame in another page", "GET", base, map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403},
		{"a form of another page", "POST", base + "export?run=0", map[string]string{"Origin": "http://evil.example", "X-Refocus": "1"}, 403},
		{"a form without an origin", "POST", base + "export?run=0", nil, 403},
		{"a model that was not offered", "POST", base + "micrograph?name=a.tif&model=/etc/passwd", map[string]string{"X-Refocus": "1"}, 400},
		{"another folder", "GET", base + "page/..%2f..%2fserver.go", nil, 404},
		{"no such micrograph", "GET", base + "micrograph/0/view.png", nil, 404},
		{"no such run", "GET", base + "run?digest=ffff", nil, 404},
		{"no such study", "GET", base + "study?study=%3Cscript%3E", nil, 404},
		{"no number", "GET", base + "tile.png?image=x", nil, 400},
	} {
		code, body := get(t, c.method, c.address, c.headers)
		if code != c.want {
			t.Errorf("%s: %d instead of %d: %.200s", c.what, code, c.want, body)
		}
		if strings.Contains(body, "<script>") {
			t.Errorf("%s: what was asked for comes back as HTML: %s", c.what, body)
		}
	}
	if _, stderr, code := output(t, "serve", "--address", "0.0.0.0:0", t.TempDir()); code != 1 || !strings.Contains(stderr, "not an address of this machine alone") {
		t.Errorf("listening for everybody: exit %d, %s", code, stderr)
	}
}

// visitor looks at a workbench in Chromium.
type visitor struct {
	*testing.T
	tab *chromium.Tab
	axe string
}

func visit(t *testing.T, address string) *visitor {
	t.Helper()
	v := &visitor{T: t, tab: chromium.Open(t.Context(), t, address)}
	v.size(1200)
	return v
}

// axe is the script of axe-core.
func axe(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(os.Getenv("REFOCUS_NODE_MODULES"), "axe-core", "axe.min.js"))
	peers.Need(t, err == nil, "npm: axe-core, in $REFOCUS_NODE_MODULES")
	return string(b)
}

// eval evaluates an expression, do runs statements.
func (v *visitor) eval(expression string) string { v.Helper(); return v.tab.Eval(v.T, expression) }
func (v *visitor) do(statements string)          { v.Helper(); v.tab.Eval(v.T, "{"+statements+"}; ''") }

// until waits for an expression to have a value.
func (v *visitor) until(what, expression, want string) {
	v.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		got := v.eval("String(" + expression + ")")
		if got == want {
			return
		}
		if time.Now().After(end) {
			v.Fatalf("%s: %s is %q, not %q, on %s", what, expression, got, want, v.eval("location.href + document.body.innerText.slice(0, 400)"))
		}
	}
}

// leave does what leads to another page, and waits for that.
func (v *visitor) leave(what, statements string) {
	v.Helper()
	v.do("document.documentElement.dataset.old = '1'; " + statements)
	v.until(what, "document.readyState == 'complete' && !document.documentElement.dataset.old", "true")
}

func (v *visitor) open(address string) {
	v.Helper()
	v.leave("opening "+address, fmt.Sprintf("location.assign(%q)", address))
}

func (v *visitor) follow(selector string) {
	v.Helper()
	v.leave("following "+selector, fmt.Sprintf("document.querySelector(%q).dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))", selector))
}

// choose gives a field of a form a value, as a person does.
func (v *visitor) choose(selector, value string) {
	v.Helper()
	v.do(fmt.Sprintf("const f = document.querySelector(%q); f.value = %q; for (const e of ['input', 'change']) f.dispatchEvent(new Event(e, {bubbles: true}))", selector, value))
}

// accessible makes sure that axe-core finds nothing and that the page is no wider than
// its window, and takes a picture where one is wanted.
func (v *visitor) accessible(what string) {
	v.Helper()
	v.do(v.axe + "; delete window.found; axe.run().then((r) => { window.found = JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes[0].html])) })")
	v.until("axe on "+what, "window.found !== undefined", "true")
	var violations [][]string
	if err := json.Unmarshal([]byte(v.eval("window.found")), &violations); err != nil {
		v.Fatal(err)
	}
	for _, x := range violations {
		v.Errorf("%s: axe-core: %q", what, x)
	}
	if wide := v.eval("String(document.documentElement.scrollWidth > document.documentElement.clientWidth)"); wide != "false" {
		v.Errorf("%s is wider than its window", what)
	}
	if dir := os.Getenv("REFOCUS_SCREENSHOT"); dir != "" {
		v.picture(filepath.Join(dir, what+".png"))
	}
}

// picture writes what the window shows.
func (v *visitor) picture(path string) {
	v.Helper()
	var r struct{ Data []byte }
	v.tab.Call(v.T, "Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	if err := os.WriteFile(path, r.Data, 0o666); err != nil {
		v.Fatal(err)
	}
}

// drop drops a file on the page.
func (v *visitor) drop(name string, content []byte) {
	v.Helper()
	v.eval(fmt.Sprintf(`(() => {
		delete document.body.dataset.done;
		const data = new DataTransfer();
		data.items.add(new File([Uint8Array.from(atob(%q), (c) => c.charCodeAt(0))], %q));
		document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
		return "";
	})()`, base64.StdEncoding.EncodeToString(content), name))
}

// size sets the width of the window.
func (v *visitor) size(width int) {
	v.Helper()
	v.tab.Call(v.T, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, &struct{}{})
}

// A person's way through the workbench in Chromium: filter, open a cell's models,
// one of them, its predictions, compare two, export, browse images, drop
// micrographs, reload a view; every page without a violation that axe-core finds.
func TestWorkbench(t *testing.T) {
	t.Parallel()
	chromium.Need(t)
	script := axe(t)
	// A network that finds something: the study's smallest learns nothing.
	finder := filepath.Join(t.TempDir(), "finder, of discs.onnx")
	model, err := onnx.Marshal(testnet.Trained(t), onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(finder, model, 0o666); err != nil {
		t.Fatal(err)
	}
	base := workbench(t, tinyStore(t), "--model", finder)
	v := visit(t, base)
	v.axe = script
	v.until("the first page", "document.readyState == 'complete' && document.querySelectorAll('#now tbody tr').length", "1")
	v.accessible("now")
	v.follow("#now tbody a")
	v.until("figures", "document.querySelectorAll('svg').length > 2", "true")
	v.accessible("study")
	v.choose("select[name=frozen]", "encoder")
	v.until("filtering", "new URLSearchParams(location.search).get('frozen')", "encoder")
	v.until("filtered", "document.readyState == 'complete' && document.querySelector('main > p').innerText.includes('2 models have these settings')", "true")
	v.follow("svg a")
	v.until("a cell's models", "location.pathname.endsWith('/runs') && document.querySelectorAll('tbody tr').length > 0", "true")
	if cell := v.eval("location.search"); !strings.Contains(cell, "frozen=encoder") || !strings.Contains(cell, "source=-100") {
		t.Errorf("a cell opens %s", cell)
	}
	v.accessible("runs")
	study := v.eval("new URLSearchParams(location.search).get('study')")
	v.open(base + "runs?study=" + url.QueryEscape(study))
	v.until("all models", "document.querySelectorAll('tbody tr').length", "4")
	v.follow("tbody th a")
	v.until("the prediction", "document.getElementById('picture').naturalWidth > 100", "true")
	v.accessible("run")
	before := v.eval("document.getElementById('picture').src")
	v.choose("input[type=range]", "1")
	v.until("the next image", "document.getElementById('picture').complete && document.getElementById('picture').naturalWidth > 100 && new URLSearchParams(location.search).get('image')", "1")
	if after := v.eval("document.getElementById('picture').src"); after == before {
		t.Error("the slider does not change the picture")
	}
	run := v.eval("new URLSearchParams(location.search).get('digest')")
	v.open(base + "runs?study=" + url.QueryEscape(study))
	v.do("[...document.querySelectorAll('input[type=checkbox]')].slice(0, 2).forEach((c) => c.click())")
	v.follow("form[action=compare] button")
	v.until("a comparison", "document.querySelectorAll('svg').length", "1")
	v.accessible("compare")
	v.open(base + "data?study=" + url.QueryEscape(study) + "&zoom=4")
	v.until("an image", "document.getElementById('picture').naturalWidth > 100", "true")
	v.accessible("data")

	// Micrographs, as a person drops them: no image, and one.
	v.open(base + "micrograph")
	v.accessible("micrograph")
	if n := v.eval("String(document.getElementById('model').length)"); n == "1" {
		t.Error("the study's model is not offered")
	}
	v.do("document.getElementById('model').selectedIndex = 1")
	pixels := make([]float32, 96*112)
	for i := range pixels {
		y, x := i/112-48, i%112-56
		pixels[i] = float32(1000 + (i*2654435761)%97)
		if x*x+y*y < 400 {
			pixels[i] += 300
		}
	}
	var tiff bytes.Buffer
	if err := imagefile.WriteTIFF(&tiff, 96, 112, 0.4, pixels); err != nil {
		t.Fatal(err)
	}
	// What is no image, or not what it says, is told of, and harms nothing.
	dm := func(sizes []uint32, pixels []uint8) []byte {
		return dmfile.Bytes(4, binary.LittleEndian, dmfile.Image{Name: "field", Kind: 6, Tag: 10, Sizes: sizes, Data: pixels, N: len(pixels), Scales: []float32{0.04, 0.04}, Units: "nm"})
	}
	const rows, columns = 2100, 2300
	big := make([]uint8, rows*columns)
	noise := rand.New(rand.NewPCG(1, 2))
	for i := range big {
		y, x := i/columns%45-20, i%columns%50-25
		big[i] = uint8(100 + 7*noise.NormFloat64())
		if x*x+y*y < 49 {
			big[i] += 20
		}
	}
	dm4 := dm([]uint32{columns, rows}, big)
	for name, content := range map[string][]byte{
		"../<b>notes.txt": []byte("no image"), "empty.dm4": nil, "half.dm4": dm4[:len(dm4)/2], "vast.dm4": dm([]uint32{1 << 31, 1 << 31}, big[:100]),
		"nested.dm4": append(bytes.Clone(dm4[:24]), bytes.Repeat([]byte{20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 100_000)...),
		"vast.tif":   []byte("II*\x00\x08\x00\x00\x00\x02\x00\x00\x01\x04\x00\x01\x00\x00\x00\xff\xff\xff\x7f\x01\x01\x04\x00\x01\x00\x00\x00\xff\xff\xff\x7f\x00\x00\x00\x00"),
	} {
		v.drop(name, content)
		v.until("no image: "+name, "document.body.dataset.done + document.getElementById('status').className", "failedbad")
		if said := v.eval("document.getElementById('status').innerText"); !strings.HasPrefix(said, filepath.Base(name)+": ") || len(said) > 1000 {
			t.Errorf("of %s it says %q", name, said)
		}
	}
	// A large one of a microscope, drawn while it is segmented.
	const hostile = "<img src=x onerror='window.hurt=1'>.dm4"
	v.choose("#model", finder)
	v.drop(hostile, dm4)
	v.until("a large file is segmented", "document.body.dataset.done", hostile)
	v.until("its picture", "document.getElementById('view').naturalWidth > 1000 && document.getElementById('view').complete", "true")
	if hurt := v.eval("String(window.hurt)"); hurt != "undefined" {
		t.Error("a file's name was run as a script")
	}
	if summary := v.eval("document.getElementById('summary').innerText"); !strings.Contains(summary, "2100×2300 pixels") || !strings.Contains(summary, "0.04 nm") {
		t.Errorf("of the large file it says %q", summary)
	}
	_, state := get(t, "GET", base+"micrograph/"+v.eval("new URLSearchParams(location.search).get('id')")+"?seen=0", nil)
	var drawn struct {
		Done, Total, Height, Width int
		Parts                      []struct{ X, Y, W, H int }
	}
	if err := json.Unmarshal([]byte(state), &drawn); err != nil {
		t.Fatal(err)
	}
	area := 0
	for _, p := range drawn.Parts {
		area += p.W * p.H
	}
	if drawn.Total < 9 || drawn.Done != drawn.Total || len(drawn.Parts) != drawn.Total || area != drawn.Height*drawn.Width {
		t.Errorf("of %d tiles %d parts were drawn, %d of %d×%d pixels", drawn.Total, len(drawn.Parts), area, drawn.Height, drawn.Width)
	}
	if n := v.eval("document.getElementById('canvas').dataset.parts"); n != strconv.Itoa(drawn.Total) {
		t.Errorf("the page has drawn %s parts of %d", n, drawn.Total)
	}
	// What was drawn meanwhile is what was found: particles are orange.
	differs := v.eval(`(() => {
		const view = document.getElementById("view"), canvas = document.getElementById("canvas");
		const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
		copy.getContext("2d").drawImage(view, 0, 0);
		const pixels = (c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
		const a = pixels(canvas), b = pixels(copy);
		let orange = 0, differ = 0;
		for (let i = 0; i < a.length; i += 4) {
			const is = (p) => p[i] - p[i + 2] > 20;
			if (is(b)) orange++;
			if (is(a) !== is(b)) differ++;
		}
		return JSON.stringify([canvas.width - view.naturalWidth, orange, differ]);
	})()`)
	var counted [3]int
	if err := json.Unmarshal([]byte(differs), &counted); err != nil || counted[0] != 0 || counted[1] < 10_000 || counted[2] > counted[1]/20 {
		t.Errorf("what was drawn differs from what was found: width, particles' pixels and others %v, %v", counted, err)
	}
	v.drop("field.tif", tiff.Bytes())
	v.until("segmented", "document.body.dataset.done", "field.tif")
	v.until("shown", "document.getElementById('view').naturalWidth", "112")
	v.until("calibrated", "document.getElementById('summary').textContent.includes('0.04 nm')", "true")
	v.accessible("segmented")
	v.choose("input[name=threshold]", "0.98")
	v.until("the threshold is in the address", "new URLSearchParams(location.search).get('threshold')", "0.98")
	v.until("the picture follows", "document.getElementById('view').src.includes('threshold=0.98')", "true")
	view := v.eval("location.href")
	id := v.eval("new URLSearchParams(location.search).get('id')")
	v.open(view)
	v.until("the view was sent", "document.body.dataset.done + document.querySelector('input[name=threshold]').value", "field.tif0.98")
	// the same numbers as on the command line
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "field.tif"), tiff.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	chosen := v.eval("document.getElementById('model').value")
	if _, stderr, code := output(t, "predict", chosen, filepath.Join(dir, "field.tif"), "-o", filepath.Join(dir, "out")); code != 0 {
		t.Fatal(stderr)
	}
	want, err := os.ReadFile(filepath.Join(dir, "out", "field.mask.png"))
	if err != nil {
		t.Fatal(err)
	}
	if code, got := get(t, "GET", base+"micrograph/"+id+"/file.mask.png", nil); code != 200 || got != string(want) {
		t.Errorf("the mask is not that of refocus predict (%d, %d bytes, %d)", code, len(got), len(want))
	}
	for _, bad := range []string{"threshold=2", "threshold=x", "min_diameter=-1"} {
		if code, _ := get(t, "GET", base+"micrograph/"+id+"?"+bad, nil); code != 400 {
			t.Errorf("%s: %d", bad, code)
		}
	}

	// An export is what refocus export writes.
	r, err := http.NewRequest("POST", base+"export?run="+run, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Refocus", "1")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(z.File) < 4 {
		t.Fatalf("the export is no archive of models and certificates: %v, %.200s", err, b)
	}

	v.size(390) // a telephone's width
	for _, p := range []string{"", "study", "runs", "run?digest=" + run, "compare?run=" + run, "data", "micrograph"} {
		v.open(base + p)
		v.accessible("narrow " + strings.SplitN(p, "?", 2)[0])
	}
	v.tab.Call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": "dark"}}}, &struct{}{})
	v.size(1200)
	for _, p := range []string{"study", "run?digest=" + run, "data"} {
		v.open(base + p)
		v.accessible("dark " + strings.SplitN(p, "?", 2)[0])
	}
}

// While another process trains, its loss and Dice are seen as they come, on the page
// and in a terminal. The page changes in place: what has the focus keeps it, what was
// opened stays open.
func TestWorkbenchWhileTraining(t *testing.T) {
	t.Parallel()
	chromium.Need(t)
	script := axe(t)
	tiny, err := os.ReadFile("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	// It is interrupted long before its end.
	endless := strings.NewReplacer(`"tiny"`, `"endless"`, "epochs         = 3", "epochs = 100000").Replace(string(tiny))
	spec, dir := filepath.Join(t.TempDir(), "endless.toml"), t.TempDir()
	if err := os.WriteFile(spec, []byte(endless), 0o666); err != nil {
		t.Fatal(err)
	}
	base := workbench(t, dir, "--spec", spec)
	v := visit(t, base)
	v.axe = script
	v.until("the empty page", "document.getElementById('now').innerText.includes('Nothing has been trained')", "true")
	training := refocus("reproduce", spec, "--out", dir, "--jobs", "1", "--threads", "1")
	var said bytes.Buffer
	training.Stdout, training.Stderr = &said, &said
	if err := training.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- training.Wait() }()
	stop := func() error {
		training.Process.Signal(syscall.SIGINT)
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { stop() })

	const row = "document.querySelector('#now tr[data-key] th a[href^=\"run?\"]')?.closest('tr')"
	cell := func(i int) string { return fmt.Sprintf("(%s?.cells[%d].innerText ?? '')", row, i) }
	v.until("a loss, a validation loss and a Dice coefficient", fmt.Sprintf("[%s, %s, %s].every((x) => /^[0-9.]+$/.test(x))", cell(3), cell(5), cell(6)), "true")
	v.until("epochs", cell(2)+".endsWith(' of 100,000')", "true")
	v.until("a curve", row+".querySelectorAll('svg path').length", "2")
	v.accessible("training")
	v.do("const r = " + row + "; r.mark = 'mine'; r.querySelector('a').focus(); document.querySelector('details').open = true; window.was = r.cells[2].innerText; window.path = r.querySelector('svg').innerHTML")
	v.until("the next epochs", cell(2)+" != window.was", "true")
	v.until("the curve follows", row+".querySelector('svg').innerHTML != window.path", "true")
	v.until("the row is the same", row+".mark + (document.activeElement == "+row+".querySelector('a')) + document.querySelector('details').open", "minetruetrue")
	if queue := v.eval("document.querySelector('details').innerText"); !strings.Contains(queue, ": 4 waiting") || !strings.Contains(queue, "pretrain") {
		t.Errorf("the queue is %q", queue)
	}
	v.size(390)
	v.accessible("narrow training")
	v.size(1200)
	v.follow("#now tr[data-key] th a[href^=\"run?\"]")
	v.until("the run's curves", "document.querySelectorAll('figure svg').length", "1")
	v.accessible("unfinished")
	v.do("document.querySelector('figure details').open = true; window.first = document.querySelector('#unfinished tr[data-key]').dataset.key")
	v.until("the next epoch is above", "document.querySelector('#unfinished tr[data-key]').dataset.key != window.first && document.querySelector('figure details').open", "true")
	v.follow("#unfinished a[href^=log]")
	v.until("its log", "location.pathname.endsWith('/log') && document.querySelector('pre') != null", "true")

	stdout, stderr, code := output(t, "status", spec, "--out", dir)
	if code != 0 || !regexp.MustCompile(`(?m)^pretrain_\S+ on .*: .*epoch [0-9,]+ of 100,000, loss [0-9.]+, validation loss [0-9.]+, Dice [0-9.]+, .* left$`).MatchString(stdout) {
		t.Errorf("status: %d, %s%s", code, stdout, stderr)
	}
	stdout, stderr, code = output(t, "status", spec, "--out", dir, "--json")
	var machines struct {
		Attempts []store.Attempt
	}
	if err := json.Unmarshal([]byte(stdout), &machines); code != 0 || err != nil || len(machines.Attempts) != 1 || len(machines.Attempts[0].Curve.Validation) < 2 {
		t.Errorf("status --json: %d, %v, %s%s", code, err, stdout, stderr)
	}

	v.open(base)
	v.until("it is still trained", row+" != null", "true")
	stop()
	if !regexp.MustCompile(`image-steps, .*loss 0\.[0-9]+, `).MatchString(said.String()) {
		t.Errorf("the lines of progress have no loss: %s", said.String())
	}
	v.until("nothing is trained any more", "document.querySelector('#now [role=status]').innerText", "No run is being trained.")
	v.until("it has begun", "document.querySelector('#now tbody tr').cells[4].innerText", "1")
}

// Pictures of the workbench's views over a store with a finished study, for documents:
// 'just screenshots' takes them.
func TestScreenshots(t *testing.T) {
	root, dir := os.Getenv("REFOCUS_SCREENSHOT_STORE"), os.Getenv("REFOCUS_SCREENSHOT")
	if root == "" || dir == "" {
		t.Skip("REFOCUS_SCREENSHOT_STORE names no store, or REFOCUS_SCREENSHOT no folder for pictures of it")
	}
	base := workbench(t, root)
	v := visit(t, base)
	v.until("the first page", "document.readyState == 'complete' && document.querySelectorAll('#now tbody tr').length > 0", "true")
	take := func(name string) { t.Helper(); v.picture(filepath.Join(dir, "workbench-"+name+".png")) }
	take("now")
	v.follow("#now tbody a")
	v.until("figures", "document.querySelectorAll('svg').length > 0", "true")
	take("study")
	study := v.eval("new URLSearchParams(location.search).get('study')")
	v.open(base + "runs?study=" + url.QueryEscape(study))
	v.do("[...document.querySelectorAll('tbody input[type=checkbox]')].slice(0, 3).forEach((c) => c.click())")
	v.follow("form[action=compare] button")
	take("compare")
	v.open(base + "runs?study=" + url.QueryEscape(study))
	v.follow("tbody th a")
	v.until("the prediction", "document.getElementById('picture').naturalWidth > 100", "true")
	take("run")
	v.open(base + "data?study=" + url.QueryEscape(study))
	v.until("an image", "document.getElementById('picture').naturalWidth > 100", "true")
	take("data")
	// A micrograph of validation images side by side.
	sets, err := filepath.Glob(filepath.Join(root, "data", v.eval("document.querySelector('main p code').innerText")+"*"))
	if err != nil || len(sets) != 1 {
		t.Fatalf("%v, data sets %q", err, sets)
	}
	ready, err := dataset.Find(root, filepath.Base(sets[0]))
	if err != nil {
		t.Fatal(err)
	}
	images, err := ready.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	across := min(6, int(math.Sqrt(float64(ready.Count))))
	h, w := ready.Height, ready.Width
	field, one := make([]float32, across*h*across*w), make([]float32, h*w)
	for i := range across * across {
		if err := images.Image(i, one); err != nil {
			t.Fatal(err)
		}
		for y := range h {
			copy(field[(i/across*h+y)*across*w+i%across*w:], one[y*w:][:w])
		}
	}
	path := filepath.Join(t.TempDir(), "field.tif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := imagefile.WriteTIFF(f, across*h, across*w, ready.PixelSize, field); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	v.open(base + "micrograph")
	v.do("const m = document.getElementById('model'); m.value = [...m.options].find((o) => o.value.includes('best')).value")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v.drop("field.tif", b)
	v.until("segmented", "document.body.dataset.done", "field.tif")
	v.until("shown", "document.getElementById('view').complete && document.getElementById('view').naturalWidth > 0", "true")
	take("micrograph")
}

// What somebody is training, and what has failed, is seen while it happens, with its
// log.
func TestWorkbenchShowsAttempts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("cd", 32)
	c, err := st.Claim(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	c.Update(func(a *store.Attempt) { a.ID, a.Study, a.Total, a.Done = "transfer_live", "tiny", 200, 50 })
	fmt.Fprintln(c.Log(), "a <b>bold</b> word\x1b[31m")
	base := workbench(t, dir)
	shows := func(what string, words ...string) { // by and by
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			code, page := get(t, "GET", base, nil)
			if code == 200 && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(page, w) }) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d: %s is not shown:\n%s", code, what, page)
			}
		}
	}
	shows("the run", "transfer_live", `value="25.0"`, "1 run is being trained")
	c.Fail(fmt.Errorf("the disk is full"))
	c.Release()
	shows("the failure", "the disk is full", "log?digest="+digest, "1 has failed")
	if code, page := get(t, "GET", base+"run?digest="+digest, nil); code != 200 || !strings.Contains(page, "the disk is full") {
		t.Errorf("%d: the run's own page does not tell of the failure:\n%s", code, page)
	}
	code, page := get(t, "GET", base+"log?digest="+digest+"&number=1", nil)
	if code != 200 || !strings.Contains(page, "a &lt;b&gt;bold&lt;/b&gt; word") || strings.Contains(page, "\x1b") {
		t.Errorf("%d: the log is not shown as text:\n%s", code, page)
	}
	for _, q := range []string{"log?digest=" + digest + "&number=2", "log?digest=../../x&number=1", "log"} {
		if code, _ := get(t, "GET", base+q, nil); code != 404 {
			t.Errorf("%s: %d", q, code)
		}
	}
}
