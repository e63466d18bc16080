package dataset

import (
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	b := newBench(t, 3)
	sets := []Named{{"defocus −10 nm", b.sources[0]}, {"defocus +5 nm", b.sources[1]}}
	list := func() string {
		var s strings.Builder
		if err := WriteList(&s, b.root, sets); err != nil {
			t.Fatal(err)
		}
		return s.String()
	}
	if s := list(); strings.Count(s, "missing") != 2 {
		t.Errorf("nothing was made:\n%s", s)
	}
	ready := b.generate(t)
	s := list()
	for _, want := range []string{"defocus −10 nm", "16×16", "ready", "−10 nm", "400 e⁻/Å²", ready[0].Digest[:12], "exit waves of 1 sets of structures: 772 KiB"} {
		if !strings.Contains(s, want) {
			t.Errorf("no %q in\n%s", want, s)
		}
	}
	m, err := ReadManifest(b.root, ready[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := WriteStructures(&text, m); err != nil || strings.Count(text.String(), "\n") != 4 {
		t.Errorf("%v\n%s", err, text.String())
	}
	if m, err := ContactSheet(b.root, ready[0], "CdSe", 2); err != nil || m.Bounds().Dx() < 400 {
		t.Errorf("contact sheet: %v", err)
	}
	sets2, err := Sets(b.root)
	if err != nil || len(sets2) != 3 {
		t.Errorf("%d sets, want two of images and their exit waves (%v)", len(sets2), err)
	}
	if sets, err := Sets(t.TempDir()); err != nil || sets != nil {
		t.Errorf("an empty store holds %v (%v)", sets, err)
	}
}
