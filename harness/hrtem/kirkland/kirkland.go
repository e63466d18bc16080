// Package kirkland holds the scattering of fast electrons by neutral atoms in
// E. J. Kirkland's parametrisation, and the electron's wavelength and
// interaction constant.
//
// The scattering factor in the first Born approximation is
//
//	f(k) = Σ a_i/(k² + b_i) + Σ c_i·exp(−d_i·k²),  i = 1…3
//
// in Å, with k = 1/d in 1/Å (2·sin θ/λ). Numbers: E. J. Kirkland, "Advanced
// Computing in Electron Microscopy" (Springer), appendix C. The projected
// potential of an atom has the Fourier transform Factor·f(k), in V·Å·Å².
package kirkland

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
)

// CODATA 2018.
const (
	planck     = 6.62607015e-34   // J·s
	charge     = 1.602176634e-19  // C
	mass       = 9.1093837015e-31 // kg
	lightSpeed = 299792458        // m/s
	restEnergy = 510998.950       // m·c² in eV
	bohrRadius = 0.529177210903   // Å
	coulomb    = 14.3996454784255 // e²/(4πε0) in V·Å (per charge)
)

// Factor is h²/(2π·m·e) = 2π·a0·e/(4πε0) in V·Å²: it turns a scattering factor in Å
// into the transform of a projected potential.
const Factor = 2 * math.Pi * bohrRadius * coulomb

// Wavelength returns the relativistic wavelength in Å at a kinetic energy in eV:
// λ = h·c/√(E(E + 2m·c²)).
func Wavelength(energy float64) float64 {
	return planck * lightSpeed / charge * 1e10 / math.Sqrt(energy*(energy+2*restEnergy))
}

// Interaction returns σ = 2π·γ·m·e·λ/h² in rad/(V·Å): the phase per projected
// potential.
func Interaction(energy float64) float64 {
	gamma := 1 + energy/restEnergy
	return 2 * math.Pi * gamma * mass * charge * Wavelength(energy) / (planck * planck) * 1e-20
}

// Element is one row of the table.
type Element struct {
	Z          int
	Symbol     string
	a, b, c, d [3]float64
}

// Lookup returns the element of atomic number z, if the table has it.
func Lookup(z int) (*Element, error) {
	for i := range table {
		if table[i].Z == z {
			return &table[i], nil
		}
	}
	return nil, fmt.Errorf("no scattering factor for atomic number %d", z)
}

// Scattering returns f in Å at a squared spatial frequency in 1/Å².
func (e *Element) Scattering(k2 float64) float64 {
	f := 0.0
	for i := range e.a {
		f += e.a[i]/(k2+e.b[i]) + float64(e.c[i]*portable.Exp(-e.d[i]*k2))
	}
	return f
}

// table is in the order a, b, c, d (1/Å, 1/Å², Å, Å²).
var table = []Element{
	{6, "C", [3]float64{0.212080767, 0.199811865, 0.168254385}, [3]float64{0.208605417, 0.208610186, 5.57870773}, [3]float64{0.14204836, 0.363830672, 0.000835012}, [3]float64{1.33311887, 3.80800263, 0.040398262}},
	{8, "O", [3]float64{0.339969204, 0.307570172, 0.130369072}, [3]float64{0.38157028, 0.381571436, 19.1919745}, [3]float64{0.0883326058, 0.1965867, 0.00099622}, [3]float64{0.760635525, 2.07401094, 0.0303266869}},
	{14, "Si", [3]float64{1.06543892, 0.120143691, 0.180915263}, [3]float64{1.04118455, 68.7113368, 0.0887533926}, [3]float64{1.1206562, 0.0305452816, 1.59963502}, [3]float64{3.70062619, 0.214097897, 9.99096638}},
	{16, "S", [3]float64{1.01646916, 0.441766748, 0.121503863}, [3]float64{1.69181965, 0.174180288, 167.011091}, [3]float64{0.82796667, 0.0233022533, 1.18302846}, [3]float64{2.3034281, 0.15695415, 5.85782891}},
	{26, "Fe", [3]float64{0.313454847, 0.689290016, 1.47141531}, [3]float64{0.0899325756, 13.0366038, 0.633345291}, [3]float64{1.03298688, 0.258280285, 0.010346069}, [3]float64{11.6783425, 0.609116446, 0.0481610627}},
	{27, "Co", [3]float64{0.315878278, 1.60139005, 0.656394338}, [3]float64{0.0946683246, 0.699436449, 15.6954403}, [3]float64{0.936746624, 0.0097756265, 0.238378578}, [3]float64{10.939241, 0.0437446816, 0.556286483}},
	{29, "Cu", [3]float64{0.358774531, 1.76181348, 0.636905053}, [3]float64{0.106153463, 1.01640995, 15.3659093}, [3]float64{0.0074493067, 0.189002347, 0.229619589}, [3]float64{0.0385345989, 0.39842779, 0.901419843}},
	{30, "Zn", [3]float64{0.570893973, 1.98908856, 0.306060585}, [3]float64{0.126534614, 2.17781965, 37.8619003}, [3]float64{0.235600223, 0.397061102, 0.0068565723}, [3]float64{0.367019041, 0.866419596, 0.0335778823}},
	{34, "Se", [3]float64{0.958390681, 0.603851342, 1.90828931}, [3]float64{0.183775557, 196.819224, 2.15082053}, [3]float64{0.173885956, 0.935265145, 0.0086225466}, [3]float64{0.300006024, 4.92471215, 0.0212308108}},
	{47, "Ag", [3]float64{2.0798139, 0.443170726, 1.96515215}, [3]float64{9.92540297, 0.104920104, 0.640103839}, [3]float64{0.596130591, 0.478016333, 0.094645847}, [3]float64{0.88959479, 1.98509407, 0.112744464}},
	{48, "Cd", [3]float64{1.63657549, 2.17927989, 0.77130069}, [3]float64{12.4540381, 1.4513466, 0.126695757}, [3]float64{0.66419388, 0.764563285, 0.0861126689}, [3]float64{0.777659202, 1.6607521, 0.105728357}},
}
