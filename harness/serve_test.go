package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/chromium"
	"github.com/refocus-em/refocus/harness/testkit/peers"
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

// A person's way through the workbench in Chromium: filter, open a cell's models,
// one of them, its predictions, compare two, export, browse images, drop
// micrographs, reload a view; every page without a violation that axe-core finds.
func TestWorkbench(t *testing.T) {
	t.Parallel()
	chromium.Need(t)
	axe, err := os.ReadFile(filepath.Join(os.Getenv("REFOCUS_NODE_MODULES"), "axe-core", "axe.min.js"))
	peers.Need(t, err == nil, "npm: axe-core, in $REFOCUS_NODE_MODULES")
	base := workbench(t, tinyStore(t))
	tab := chromium.Open(t.Context(), t, base)
	until := func(what, expression, want string) {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
			got := tab.Eval(t, "String("+expression+")")
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %s is %q, not %q, on %s", what, expression, got, want, tab.Eval(t, "location.href + document.body.innerText.slice(0, 400)"))
			}
		}
	}
	open := func(address string) {
		t.Helper()
		tab.Eval(t, fmt.Sprintf("document.documentElement.dataset.old = '1'; location.assign(%q); ''", address))
		until("opening "+address, "document.readyState == 'complete' && !document.documentElement.dataset.old", "true")
	}
	follow := func(selector string) {
		t.Helper()
		tab.Eval(t, fmt.Sprintf("document.documentElement.dataset.old = '1'; document.querySelector(%q).dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true})); ''", selector))
		until("following "+selector, "document.readyState == 'complete' && !document.documentElement.dataset.old", "true")
	}
	accessible := func(what string) {
		t.Helper()
		tab.Eval(t, string(axe)+"; delete window.found; axe.run().then((r) => { window.found = JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes[0].html])) }); ''")
		until("axe on "+what, "window.found !== undefined", "true")
		var violations [][]string
		if err := json.Unmarshal([]byte(tab.Eval(t, "window.found")), &violations); err != nil {
			t.Fatal(err)
		}
		for _, v := range violations {
			t.Errorf("%s: axe-core: %q", what, v)
		}
		if wide := tab.Eval(t, "String(document.documentElement.scrollWidth > document.documentElement.clientWidth)"); wide != "false" {
			t.Errorf("%s is wider than its window", what)
		}
		if dir := os.Getenv("REFOCUS_SCREENSHOT"); dir != "" {
			var r struct{ Data []byte }
			tab.Call(t, "Page.captureScreenshot", map[string]any{"format": "png"}, &r)
			if err := os.WriteFile(filepath.Join(dir, what+".png"), r.Data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	size := func(width int) {
		tab.Call(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, &struct{}{})
	}
	size(1200)
	until("the first page", "document.readyState == 'complete' && document.querySelectorAll('#now tbody tr').length", "1")
	accessible("now")
	follow("#now tbody a")
	until("figures", "document.querySelectorAll('svg').length > 2", "true")
	accessible("study")
	tab.Eval(t, "document.documentElement.dataset.old = '1'; const s = document.querySelector('select[name=frozen]'); s.value = 'encoder'; s.dispatchEvent(new Event('change', {bubbles: true})); ''")
	until("filtering", "!document.documentElement.dataset.old && new URLSearchParams(location.search).get('frozen')", "encoder")
	until("filtered", "document.querySelector('main > p').innerText.includes('2 models have these settings')", "true")
	follow("svg a")
	until("a cell's models", "location.pathname.endsWith('/runs') && document.querySelectorAll('tbody tr').length > 0", "true")
	if cell := tab.Eval(t, "location.search"); !strings.Contains(cell, "frozen=encoder") || !strings.Contains(cell, "source=-100") {
		t.Errorf("a cell opens %s", cell)
	}
	accessible("runs")
	study := tab.Eval(t, "new URLSearchParams(location.search).get('study')")
	open(base + "runs?study=" + url.QueryEscape(study))
	until("all models", "document.querySelectorAll('tbody tr').length", "4")
	follow("tbody th a")
	until("the prediction", "document.getElementById('picture').naturalWidth > 100", "true")
	accessible("run")
	before := tab.Eval(t, "document.getElementById('picture').src")
	tab.Eval(t, "const r = document.querySelector('input[type=range]'); r.value = 1; r.dispatchEvent(new Event('input', {bubbles: true})); ''")
	until("the next image", "document.getElementById('picture').complete && document.getElementById('picture').naturalWidth > 100 && new URLSearchParams(location.search).get('image')", "1")
	if after := tab.Eval(t, "document.getElementById('picture').src"); after == before {
		t.Error("the slider does not change the picture")
	}
	run := tab.Eval(t, "new URLSearchParams(location.search).get('digest')")
	open(base + "runs?study=" + url.QueryEscape(study))
	tab.Eval(t, "[...document.querySelectorAll('input[type=checkbox]')].slice(0, 2).forEach((c) => c.click()); ''")
	follow("form[action=compare] button")
	until("a comparison", "document.querySelectorAll('svg').length", "1")
	accessible("compare")
	open(base + "data?study=" + url.QueryEscape(study) + "&zoom=4")
	until("an image", "document.getElementById('picture').naturalWidth > 100", "true")
	accessible("data")

	// Micrographs, as a person drops them: no image, and one.
	open(base + "micrograph")
	accessible("micrograph")
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
	dropFile := func(name string, content []byte) {
		t.Helper()
		tab.Eval(t, fmt.Sprintf(`(() => {
			delete document.body.dataset.done;
			const data = new DataTransfer();
			data.items.add(new File([Uint8Array.from(atob(%q), (c) => c.charCodeAt(0))], %q));
			document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
			return "";
		})()`, base64.StdEncoding.EncodeToString(content), name))
	}
	dropFile("../<b>notes.txt", []byte("no image"))
	until("what is no image", "document.body.dataset.done", "failed")
	until("it says so", "document.getElementById('status').className", "bad")
	dropFile("field.tif", tiff.Bytes())
	until("segmented", "document.body.dataset.done", "field.tif")
	until("shown", "document.getElementById('view').naturalWidth", "112")
	until("calibrated", "document.getElementById('summary').textContent.includes('0.04 nm')", "true")
	accessible("segmented")
	tab.Eval(t, "const h = document.querySelector('input[name=threshold]'); h.value = 0.98; h.dispatchEvent(new Event('input', {bubbles: true})); ''")
	until("the threshold is in the address", "new URLSearchParams(location.search).get('threshold')", "0.98")
	until("the picture follows", "document.getElementById('view').src.includes('threshold=0.98')", "true")
	view := tab.Eval(t, "location.href")
	id := tab.Eval(t, "new URLSearchParams(location.search).get('id')")
	open(view)
	until("the view was sent", "document.body.dataset.done + document.querySelector('input[name=threshold]').value", "field.tif0.98")
	// the same numbers as on the command line
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "field.tif"), tiff.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	model := tab.Eval(t, "document.getElementById('model').value")
	if _, stderr, code := output(t, "predict", model, filepath.Join(dir, "field.tif"), "-o", filepath.Join(dir, "out")); code != 0 {
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

	size(390) // a telephone's width
	for _, p := range []string{"", "study", "runs", "run?digest=" + run, "compare?run=" + run, "data", "micrograph"} {
		open(base + p)
		accessible("narrow " + strings.SplitN(p, "?", 2)[0])
	}
	tab.Call(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": "dark"}}}, &struct{}{})
	size(1200)
	for _, p := range []string{"study", "run?digest=" + run, "data"} {
		open(base + p)
		accessible("dark " + strings.SplitN(p, "?", 2)[0])
	}
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
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // records are written by and by
		code, page := get(t, "GET", base, nil)
		if code == 200 && strings.Contains(page, "transfer_live") && strings.Contains(page, `value="25.0"`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d: the run is not shown:\n%s", code, page)
		}
	}
	c.Fail(fmt.Errorf("the disk is full"))
	c.Release()
	if _, page := get(t, "GET", base, nil); !strings.Contains(page, "the disk is full") || !strings.Contains(page, "log?digest="+digest) {
		t.Errorf("the failure is not shown:\n%s", page)
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
