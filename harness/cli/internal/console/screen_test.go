package console

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// terminal shows what a text does to a terminal: the rows, from the first that was
// written to.
func terminal(t *testing.T, text string) []string {
	t.Helper()
	rows, at := []string{""}, 0
	for len(text) > 0 {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := strings.IndexFunc(text[2:], func(c rune) bool { return c >= 'A' && c <= 'Z' }) + 2
			switch n, _ := strconv.Atoi(text[2:end]); text[end] {
			case 'A':
				if at -= n; at < 0 {
					t.Fatalf("%d rows above the first", -at)
				}
			case 'K':
				rows[at] = ""
			case 'J':
				rows = append(rows[:at:at], "")
			default:
				t.Fatalf("unknown %q", text[:end+1])
			}
			text = text[end+1:]
		case text[0] == '\n':
			if at++; at == len(rows) {
				rows = append(rows, "")
			}
			text = text[1:]
		case text[0] == '\r':
			text = text[1:]
		default:
			end := strings.IndexAny(text, "\x1b\r\n")
			rows[at] += text[:end]
			text = text[end:]
		}
	}
	return rows
}

// What is shown replaces what was, in terminals of every size, and never is more than
// fits.
func TestScreen(t *testing.T) {
	for _, size := range [][2]int{{200, 50}, {40, 10}, {40, 3}, {5, 2}, {1, 1}} {
		var b bytes.Buffer
		s := &Screen{w: &b, size: func() (int, int) { return size[0], size[1] }}
		for _, lines := range []int{4, 1, 30, 2} {
			text := ""
			for i := range lines {
				text += fmt.Sprintf("line %d of %d: épreuves de la longueur de deux rangées\n", i+1, lines)
			}
			if err := s.Show(text); err != nil {
				t.Fatal(err)
			}
			rows := terminal(t, b.String())
			if n := len(rows); n > max(2, size[1]) || rows[n-1] != "" {
				t.Fatalf("%v: %d lines are shown in %d rows: %q", size, lines, n, rows)
			}
			for i, r := range rows {
				if utf8.RuneCountInString(r) > max(1, size[0]-1) {
					t.Errorf("%v: row %d is %q", size, i, r)
				}
			}
			// Whatever is not below the last row is there, word for word.
			shown := strings.Join(strings.Fields(strings.Join(rows, " ")), " ")
			if size[0] >= 40 && size[1] > 2*lines && shown != strings.Join(strings.Fields(text), " ") {
				t.Errorf("%v: shown is %q", size, shown)
			}
			if strings.HasSuffix(shown, "…") != (size[1] <= lines) && size[0] >= 200 {
				t.Errorf("%v: %d lines are shown as %q", size, lines, shown)
			}
		}
	}
	var b bytes.Buffer
	s := &Screen{w: &b}
	s.Show("one\n")
	s.Show("two\n")
	if b.String() != "one\ntwo\n" {
		t.Errorf("no terminal: %q", b.String())
	}
}
