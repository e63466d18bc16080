package format

import "testing"

func TestVisible(t *testing.T) {
	for s, want := range map[string]string{
		"plain, Å and – and 日本":           "plain, Å and – and 日本",
		"two\nlines\tof text":             "two\nlines\tof text",
		"\x1b[2J\x1b]0;title\a":           `\x1b[2J\x1b]0;title\x07`,
		"over\rwritten\b":                 `over\x0dwritten\x08`,
		"\u009b31mC1":                     `\x9b31mC1`,
		"\x9b31m no UTF-8":                `\x9b31m no UTF-8`,
		"exe.\u202egnp":                   `exe.\u202egnp`,
		"a replacement character: \uFFFD": "a replacement character: \uFFFD",
		"\x7f":                            `\x7f`,
	} {
		if got := Visible(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
