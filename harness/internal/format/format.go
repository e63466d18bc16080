// Package format writes numbers and quantities the same way wherever people read
// them: a space before the unit, − for minus, bytes in powers of 1024, the units
// of the field. What machines read (JSON, CSV, specs) is not written here, but for
// Plain.
package format

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// None stands for a number that is not there.
const None = "–"

// Count groups digits by thousands: "141,004,800".
func Count(n int64) string {
	d := strconv.FormatInt(n, 10)
	d, minus := strings.CutPrefix(d, "-")
	for i := len(d) - 3; i > 0; i -= 3 {
		d = d[:i] + "," + d[i:]
	}
	if minus {
		return "−" + d
	}
	return d
}

// Bytes is a size with three digits: "12.5 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return Count(n) + " B"
	}
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	x, unit := float64(n)/1024, 0
	for x >= 999.5 && unit < len(units)-1 { // 1000 KiB would have four digits
		x /= 1024
		unit++
	}
	return Digits(x, 3) + " " + units[unit]
}

// Duration is a time in at most two units: "9 s", "3 min 20 s", "5 h 10 min",
// "12 days", "20 years".
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch s := int64(math.Round(d.Seconds())); {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case d < 2*day:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	case d < 730*day:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	}
	return fmt.Sprintf("%.0f years", d.Hours()/24/365)
}

// Number is the shortest decimal that reads back as x: "150", "−2.5", "1e−7".
func Number(x float64) string {
	switch {
	case math.IsNaN(x):
		return None
	case x == 0:
		return "0" // also for −0
	}
	return minus(strconv.FormatFloat(x, 'g', -1, 64))
}

// Digits is x with at most so many significant digits: "0.0123", "1.5e−7".
func Digits(x float64, digits int) string {
	if math.IsNaN(x) {
		return None
	}
	return minus(strconv.FormatFloat(x, 'g', digits, 64))
}

// Rate is a rate or speed with three digits and no exponent: "0.25", "12.3", "512".
func Rate(x float64) string {
	switch {
	case x >= 99.95:
		return Count(int64(math.Round(x)))
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// Signed has a sign unless it is 0, and so many decimals: "+0.25", "−10.0", "0.0".
func Signed(x float64, decimals int) string {
	if math.IsNaN(x) {
		return None
	}
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	switch zero := strconv.FormatFloat(0, 'f', decimals, 64); {
	case s == "-"+zero:
		return zero
	case x > 0 && s != zero:
		return "+" + s
	}
	return minus(s)
}

// Defocus in Å is written in nm with its sign, as the field does: "+12.5 nm",
// "0 nm".
func Defocus(angstroms float64) string {
	s := Number(math.Round(angstroms*1e6) / 1e7) // nm, without what dividing by 10 leaves
	if angstroms > 0 {
		s = "+" + s
	}
	return s + " nm"
}

// Dose is in electrons per Å²: "450 e⁻/Å²".
func Dose(x float64) string { return Number(x) + " e⁻/Å²" }

// PixelSize is in Å: "0.2 Å".
func PixelSize(angstroms float64) string { return Digits(angstroms, 3) + " Å" }

// Loss has four digits, zeros at the end among them: "0.1010".
func Loss(x float64) string {
	if math.IsNaN(x) {
		return None
	}
	return minus(strings.TrimSuffix(fmt.Sprintf("%#.4g", x), "."))
}

// Percent of 1: "77.9 %".
func Percent(x float64) string { return Digits(100*x, 3) + " %" }

// Milliseconds of a time in seconds: "8.4 ms".
func Milliseconds(seconds float64) string { return fmt.Sprintf("%.1f ms", 1e3*seconds) }

// Size is that of an image or a grid: "64×48".
func Size(height, width int) string { return fmt.Sprintf("%d×%d", height, width) }

// Plain is the shortest decimal as people write it in specs, and as it stands in
// the names of domains and runs: "150", "-100", "1e-3".
func Plain(x float64) string {
	if x == 0 {
		return "0" // also for −0
	}
	if a := math.Abs(x); a >= 0.01 && a < 1e6 {
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	m, e, _ := strings.Cut(strconv.FormatFloat(x, 'e', -1, 64), "e")
	n, _ := strconv.Atoi(e) // FormatFloat writes an integer there
	return m + "e" + strconv.Itoa(n)
}

// minus replaces the hyphens of a number and the zeros that pad its exponent.
func minus(s string) string {
	if m, e, ok := strings.Cut(s, "e"); ok {
		n, _ := strconv.Atoi(e) // FormatFloat writes an integer there
		s = m + "e" + strconv.Itoa(n)
	}
	return strings.ReplaceAll(s, "-", "−")
}
