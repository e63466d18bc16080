package format

import (
	"math"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1,000"}, {Count(141004800), "141,004,800"}, {Count(-1234), "−1,234"}, {Count(-123), "−123"},
		{Bytes(0), "0 B"}, {Bytes(999), "999 B"}, {Bytes(1000), "1,000 B"}, {Bytes(1536), "1.5 KiB"}, {Bytes(1023 << 10), "0.999 MiB"},
		{Bytes(9_750_000), "9.3 MiB"}, {Bytes(295 << 30), "295 GiB"}, {Bytes(math.MaxInt64), "8 EiB"},
		{Duration(0), "0 s"}, {Duration(8700 * time.Millisecond), "9 s"}, {Duration(59700 * time.Millisecond), "1 min 0 s"},
		{Duration(200 * time.Second), "3 min 20 s"}, {Duration(18600 * time.Second), "5 h 10 min"}, {Duration(1e6 * time.Second), "12 days"},
		{Duration(math.MaxInt64), "292 years"},
		{Number(0), "0"}, {Number(math.Copysign(0, -1)), "0"}, {Number(-2.5), "−2.5"}, {Number(1e-7), "1e−7"}, {Number(math.NaN()), "–"},
		{Digits(0.0123456, 3), "0.0123"}, {Digits(-1.5e-9, 2), "−1.5e−9"}, {Digits(math.NaN(), 2), "–"},
		{Rate(0.251), "0.25"}, {Rate(9.996), "10.0"}, {Rate(12.34), "12.3"}, {Rate(99.96), "100"}, {Rate(1234.5), "1,235"},
		{Signed(0.25, 2), "+0.25"}, {Signed(-10, 1), "−10.0"}, {Signed(0, 1), "0.0"}, {Signed(-0.01, 1), "0.0"}, {Signed(0.01, 1), "0.0"}, {Signed(math.NaN(), 1), "–"},
		{Defocus(0), "0 nm"}, {Defocus(100), "+10 nm"}, {Defocus(-125), "−12.5 nm"}, {Defocus(0.3), "+0.03 nm"}, {Defocus(-3), "−0.3 nm"}, {Defocus(12345), "+1234.5 nm"},
		{Dose(450), "450 e⁻/Å²"}, {Dose(1e5), "100000 e⁻/Å²"}, {PixelSize(0.2), "0.2 Å"}, {PixelSize(0.40625), "0.406 Å"},
		{Loss(0.30463), "0.3046"}, {Loss(0.101), "0.1010"}, {Loss(1.5), "1.500"}, {Loss(1234), "1234"}, {Loss(0), "0.000"}, {Loss(math.NaN()), "–"}, {Loss(-0.00001234), "−1.234e−5"}, {Percent(0.7789), "77.9 %"}, {Percent(1), "100 %"}, {Size(64, 48), "64×48"},
		{Plain(1e-3), "1e-3"}, {Plain(2.5e-4), "2.5e-4"}, {Plain(0.01), "0.01"}, {Plain(150), "150"}, {Plain(0), "0"}, {Plain(-100), "-100"}, {Milliseconds(0.00842), "8.4 ms"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
