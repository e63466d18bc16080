package progress

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// clock advances only when told to.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func printer(s Style) (*Printer, *bytes.Buffer, *clock) {
	var b bytes.Buffer
	c := &clock{time.Unix(0, 0)}
	p := New(&b, s)
	p.now = c.now
	return p, &b, c
}

func TestLines(t *testing.T) {
	p, b, c := printer(Lines)
	p.Begin("training", "images", 110, 10)
	c.t = c.t.Add(time.Second)
	p.Add(5) // too soon for a line
	c.t = c.t.Add(9 * time.Second)
	p.Add(15)
	p.Printf("note %d", 1)
	c.t = c.t.Add(40 * time.Second)
	p.Add(80)
	p.End()
	const want = `training    30/110 images, 2.00/s, 40 s left
note 1
training    110/110 images, 2.00/s
training    110/110 images, 2.00/s, took 50 s
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b, want)
	}
}

func TestBarRedraws(t *testing.T) {
	p, b, c := printer(Bar)
	p.Begin("training", "images", 4, 0)
	c.t = c.t.Add(time.Second)
	p.Add(2)
	p.End()
	last := b.String()[strings.LastIndex(b.String(), "\r"):]
	if !strings.Contains(last, "[############............] 2/4 images") || !strings.HasSuffix(last, "took 1 s\n") {
		t.Errorf("last line %q", last)
	}
}

func TestJSON(t *testing.T) {
	p, b, c := printer(JSON)
	p.Begin("training", "images", 4, 0)
	c.t = c.t.Add(2 * time.Second)
	p.Add(2)
	p.Event("run", map[string]any{"id": "x"})
	p.End()
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines:\n%s", len(lines), b)
	}
	var o struct {
		Event string
		Done  float64
		ETA   float64 `json:"eta_seconds"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &o); err != nil || o.Event != "progress" || o.Done != 2 || o.ETA != 2 {
		t.Errorf("%s: %+v, %v", lines[0], o, err)
	}
}

func TestDuration(t *testing.T) {
	for s, want := range map[float64]string{8.7: "9 s", 200: "3 min 20 s", 18600: "5 h 10 min", 1e6: "11 days"} {
		if got := Duration(s); got != want {
			t.Errorf("%g: %q, want %q", s, got, want)
		}
	}
}
