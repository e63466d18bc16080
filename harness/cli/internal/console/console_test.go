package console

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/refocus-em/refocus/harness/progress"
)

var _ progress.Meter = (*Printer)(nil)

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
	p.Begin("training", "images", 1100)
	p.Skip(100)
	c.t = c.t.Add(time.Second)
	p.Add(50) // too soon for a line
	c.t = c.t.Add(9 * time.Second)
	p.Add(150)
	p.Printf("note %d", 1)
	c.t = c.t.Add(40 * time.Second)
	p.Add(800)
	p.End()
	const want = `training    300/1,100 images, 20.0/s, 40 s left
note 1
training    1,100/1,100 images, 20.0/s
training    1,100/1,100 images, 20.0/s, took 50 s
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b, want)
	}
}

// A log of a day has a line a minute at most.
func TestLinesOfALongRun(t *testing.T) {
	p, b, c := printer(Lines)
	p.Begin("training", "images", 1e6)
	for range 24 * 3600 {
		c.t = c.t.Add(time.Second)
		p.Add(1)
	}
	if n := strings.Count(b.String(), "\n"); n < 1000 || n > 24*60+100 {
		t.Errorf("%d lines", n)
	}
}

func TestBar(t *testing.T) {
	p, b, c := printer(Bar)
	c.t = c.t.Add(time.Second)
	p.Begin("training", "images", 4)
	c.t = c.t.Add(time.Second)
	p.Add(2)
	p.Printf("note")
	p.End()
	const want = "\r\x1b[Ktraining    [........................] 0/4 images" +
		"\r\x1b[Ktraining    [############............] 2/4 images, 2.00/s, 1 s left" +
		"\r\x1b[Knote\n" +
		"\r\x1b[Ktraining    [############............] 2/4 images, 2.00/s, took 1 s\n"
	if b.String() != want {
		t.Errorf("got\n%q, want\n%q", b, want)
	}
}

// However often it is told something, the bar is drawn four times a second at most.
func TestBarIsSlow(t *testing.T) {
	p, b, c := printer(Bar)
	c.t = c.t.Add(time.Second)
	for i := range 10_000 { // ten seconds
		if i%5000 == 0 {
			p.Begin("training", "images", 5000)
		}
		c.t = c.t.Add(time.Millisecond)
		p.Add(1)
		if i%100 == 0 {
			p.Printf("note")
		}
	}
	notes, ends := 100, 1
	if n := strings.Count(b.String(), "training"); n > 40+ends+1 || n < 30 {
		t.Errorf("drawn %d times", n)
	}
	if n := strings.Count(b.String(), "\n"); n != notes+ends {
		t.Errorf("%d lines, want the notes and the end of the first phase", n)
	}
}

// In every width it stays on one line, and at 40 columns the count and the time
// left are there, for the largest study as well.
func TestBarFits(t *testing.T) {
	for _, phase := range []string{"training", "2026-11-25_a-rather-long-name-of-a-micrograph.tif[12]"} {
		for width := range 200 {
			p, b, c := printer(Bar)
			p.width = func() int { return width }
			c.t = c.t.Add(time.Second)
			p.Begin(phase, "image-steps", 141_004_800)
			c.t = c.t.Add(21 * time.Hour)
			p.Gauge("loss", 0.0123456)
			p.Add(70_000_000)
			all := strings.Split(b.String(), "\r\x1b[K")
			last := all[len(all)-1]
			if n := utf8.RuneCountInString(last); n > max(width-1, 0) {
				t.Fatalf("%d columns of %d: %q", n, width, last)
			}
			for _, w := range []string{"70000000/141004800", "21 h 18 min left"} {
				if width >= 40 && !strings.Contains(strings.ReplaceAll(last, ",", ""), w) {
					t.Errorf("%d columns: %q lacks %q", width, last, w)
				}
			}
		}
	}
	p, b, c := printer(Bar)
	c.t = c.t.Add(time.Second)
	p.Begin("training", "image-steps", 44_352)
	c.t = c.t.Add(100 * time.Second)
	p.Add(20_000)
	if want := "training    [#######.........] 20,000/44,352 image-steps, 200/s, 2 min 2 s left"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("80 columns: %q, want %q", b, want)
	}
}

// The loss is in the line from the moment that it is known, also where the terminal is
// narrow, changes in place, and goes when nothing is trained.
func TestGauge(t *testing.T) {
	for _, width := range []int{48, 60, 80, 120} {
		p, b, c := printer(Bar)
		p.width = func() int { return width }
		p.Begin("training", "image-steps", 44_352)
		for _, g := range []struct {
			loss float64
			want string
		}{{0.54321, ", loss 0.543, "}, {0.0123456, ", loss 0.0123, "}, {math.NaN(), ""}} {
			p.Gauge("loss", g.loss)
			c.t = c.t.Add(time.Minute)
			p.Add(10_000)
			drawn := strings.Split(b.String(), "\r\x1b[K")
			if l := drawn[len(drawn)-1]; !strings.Contains(l, g.want) || g.want == "" && strings.Contains(l, "loss") || !strings.HasSuffix(l, " left") {
				t.Errorf("%d columns: %q lacks %q or the time", width, l, g.want)
			}
		}
	}
	p, b, c := printer(JSON)
	p.Begin("training", "image-steps", 10)
	p.Gauge("loss", 0.25)
	c.t = c.t.Add(2 * time.Second)
	p.Add(1)
	var o struct{ Loss float64 }
	if err := json.Unmarshal(b.Bytes(), &o); err != nil || o.Loss != 0.25 {
		t.Errorf("%v: %s", err, b)
	}
}

func TestJSON(t *testing.T) {
	p, b, c := printer(JSON)
	p.Begin("training", "images", 4)
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

// What is not a terminal gets no control characters.
func TestForAFile(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := For(f)
	p.Begin("training", "images", 4)
	p.Add(2)
	p.End()
	b, err := os.ReadFile(f.Name())
	if err != nil || bytes.ContainsAny(b, "\r\x1b") || !bytes.Contains(b, []byte("2/4 images")) {
		t.Errorf("%q, %v", b, err)
	}
}
