package imagefile

import (
	"strings"
	"testing"
)

// What is not read is named, with what to do instead.
func TestUnknown(t *testing.T) {
	for _, k := range known {
		b := append(append(make([]byte, k.at), k.magic...), make([]byte, 2000)...)
		if _, _, err := open(b, ""); err == nil || !strings.Contains(err.Error(), k.name) || !strings.Contains(err.Error(), k.instead) {
			t.Errorf("%s: error %v", k.name, err)
		}
	}
	for _, text := range []string{"", "some text", strings.Repeat("text of more than a header ", 100)} {
		if _, _, err := open([]byte(text), ""); err == nil {
			t.Errorf("%.20q is read", text)
		}
	}
}
