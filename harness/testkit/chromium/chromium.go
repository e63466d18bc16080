// Package chromium drives pages in headless Chromium, for tests.
package chromium

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// Tab is a page in headless Chromium, driven over the DevTools protocol on a
// pair of pipes: messages of JSON that end in a zero byte.
type Tab struct {
	in      io.Writer
	out     *bufio.Reader
	id      int
	session string
}

// Need skips the test where there is no Chromium.
func Need(t *testing.T) string {
	t.Helper()
	return peers.Program(t, "chromium", "Debian: chromium")
}

// Open starts a browser of its own, with one page, until the test ends.
func Open(ctx context.Context, t *testing.T, url string) *Tab {
	t.Helper()
	chromium := Need(t)
	fromHere, toChromium, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromChromium, toHere, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
		"--no-first-run", "--remote-debugging-pipe", "--window-size=1100,900", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{fromHere, toHere} // file descriptors 3 and 4
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fromHere.Close()
	toHere.Close()
	p := &Tab{in: toChromium, out: bufio.NewReader(fromChromium)}
	t.Cleanup(func() {
		// asked to close, it takes its children with it
		fmt.Fprintf(toChromium, `{"id":1000000,"method":"Browser.close"}%c`, 0)
		io.Copy(io.Discard, p.out)
		toChromium.Close()
		fromChromium.Close()
		cmd.Wait()
		if t.Failed() {
			t.Logf("chromium: %s", words.String())
		}
	})
	var target struct{ TargetID string }
	p.Call(t, "Target.createTarget", map[string]any{"url": url}, &target)
	var attached struct{ SessionID string }
	p.Call(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p.session = attached.SessionID
	return p
}

// Call sends a command of the DevTools protocol and waits for its answer.
func (p *Tab) Call(t *testing.T, method string, params, result any) {
	t.Helper()
	if err := p.call(t, method, params, result); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

// call returns what the browser complains of.
func (p *Tab) call(t *testing.T, method string, params, result any) error {
	t.Helper()
	p.id++
	m := map[string]any{"id": p.id, "method": method, "params": params}
	if p.session != "" {
		m["sessionId"] = p.session
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(b, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		b, err := p.out.ReadBytes(0)
		if err != nil {
			t.Fatalf("%s: chromium has gone: %v", method, err)
		}
		var r struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(b[:len(b)-1], &r); err != nil {
			t.Fatal(err)
		}
		if r.ID != p.id {
			continue // an event
		}
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if err := json.Unmarshal(r.Result, result); err != nil {
			t.Fatal(err)
		}
		return nil
	}
}

// Eval returns the string that an expression gives; "" while the page is not
// there yet.
func (p *Tab) Eval(t *testing.T, expression string) string {
	t.Helper()
	var r struct {
		Result struct{ Value any }
	}
	err := p.call(t, "Runtime.evaluate", map[string]any{"expression": expression}, &r)
	if err != nil && !strings.Contains(err.Error(), "context") { // between two pages there is none
		t.Fatal(err)
	}
	s, _ := r.Result.Value.(string)
	return s
}
