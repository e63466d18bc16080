package console

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Screen shows a text of some lines that changes: on a terminal in place, folded to its
// width and cut to its height, elsewhere one text after another.
type Screen struct {
	w     io.Writer
	size  func() (columns, rows int) // nil: no terminal
	lines int                        // of what is shown
}

// NewScreen returns a screen on a file, which may be a terminal.
func NewScreen(f *os.File) *Screen {
	s := &Screen{w: f}
	if fd := int(f.Fd()); term.IsTerminal(fd) && os.Getenv("TERM") != "dumb" {
		s.size = func() (int, int) {
			w, h, err := term.GetSize(fd)
			if err != nil || w <= 0 || h <= 0 {
				return 80, 24
			}
			return w, h
		}
	}
	return s
}

// Show replaces what is shown. The text's control characters must have been written out
// (format.Visible).
func (s *Screen) Show(text string) error {
	if s.size == nil {
		_, err := io.WriteString(s.w, text)
		return err
	}
	columns, rows := s.size()
	var lines []string
	for l := range strings.Lines(text) {
		lines = append(lines, fold(strings.TrimRight(l, "\n"), max(1, columns-1))...)
	}
	if most := max(1, rows-1); len(lines) > most { // the cursor has a row, too
		lines = append(lines[:most-1:most-1], "…")
	}
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[K" + l + "\n")
	}
	b.WriteString("\x1b[J")
	s.lines = len(lines)
	_, err := io.WriteString(s.w, b.String())
	return err
}

// fold breaks a line into ones of so many columns, at spaces where that is possible.
func fold(l string, columns int) (lines []string) {
	const indent = "  "
	rest := []rune(l)
	for len(rest) > columns {
		at := columns
		for i := columns; i > columns/2; i-- {
			if rest[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, string(rest[:at]))
		rest = []rune(strings.TrimLeft(string(rest[at:]), " "))
		if columns > 4*len(indent) {
			rest = append([]rune(indent), rest...)
		}
	}
	return append(lines, string(rest))
}
