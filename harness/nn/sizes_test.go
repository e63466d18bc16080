package nn

import "testing"

func TestSizes(t *testing.T) {
	for _, c := range []struct{ a, b, gcd, lcm int }{{1, 1, 1, 1}, {12, 18, 6, 36}, {16, 5, 1, 80}, {8, 32, 8, 32}} {
		if g, l := GCD(c.a, c.b), LCM(c.a, c.b); g != c.gcd || l != c.lcm {
			t.Errorf("%d and %d: greatest common divisor %d, least common multiple %d, want %d and %d", c.a, c.b, g, l, c.gcd, c.lcm)
		}
	}
	if n := Size(nil); n != 1 {
		t.Errorf("a scalar has %d elements", n)
	}
	if n := Size([]int{2, 3, 0}); n != 0 {
		t.Errorf("2×3×0 has %d elements", n)
	}
}

func TestMostProbable(t *testing.T) {
	p := []float32{ // three classes of four pixels
		0.2, 0.4, 0.6, 0.3,
		0.5, 0.4, 0.3, 0.3,
		0.3, 0.2, 0.1, 0.4,
	}
	for i, want := range []int{1, 0, 0, 2} { // the first of equals in pixel 1
		if got := MostProbable(p, 4, i); got != want {
			t.Errorf("pixel %d is of class %d, want %d", i, got, want)
		}
	}
}

// The layout of the widest network takes no memory for its weights, and counts
// like the network itself.
func TestUNetLayout(t *testing.T) {
	layout, err := UNetLayout(UNetOptions{Width: 1024, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range layout.Tensors {
		if w.Role != Constant && w.Data != nil {
			t.Fatalf("%s has data", w.Name)
		}
	}
	o := UNetOptions{Width: 8, Classes: 3}
	layout, err = UNetLayout(o)
	if err != nil {
		t.Fatal(err)
	}
	g, err := UNet(o)
	if err != nil {
		t.Fatal(err)
	}
	shape := []int{1, 1, 32, 32}
	want, err := g.TrainingMultiplyAdds(shape, Encoder)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := layout.TrainingMultiplyAdds(shape, Encoder); err != nil || got != want || layout.Count("") != g.Count("") {
		t.Errorf("%d multiply-adds and %d parameters (%v), want %d and %d", got, layout.Count(""), err, want, g.Count(""))
	}
}
