package thon

import (
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/carbon"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
	"github.com/refocus-em/refocus/harness/hrtem/optics"
)

// Optics of the microscope.
type Optics struct {
	Energy      float64 // eV
	FocalSpread float64 // Å, 1/e half width
	// Displacement is the root-mean-square thermal displacement in Å along an axis.
	Displacement float64
}

// lens is what Optics come to.
type lens struct {
	Optics
	lambda float64
	phase  float64 // 2σC
	carbon *kirkland.Element
}

func (o Optics) lens() lens {
	c, err := kirkland.Lookup(carbon.Z)
	if err != nil {
		panic(err) // the table has carbon
	}
	return lens{o, kirkland.Wavelength(o.Energy), 2 * kirkland.Interaction(o.Energy) * kirkland.Factor, c}
}

// scattered is the power in Å² that 1 Å of carbon scatters to a frequency and the lens
// lets pass, before sin².
func (l lens) scattered(k float64) float64 {
	k2 := k * k
	f := l.phase * l.carbon.Scattering(k2) * optics.Envelope(l.lambda, l.FocalSpread, k2)
	return carbon.Density * f * f * math.Exp(-4*math.Pi*math.Pi*l.Displacement*l.Displacement*k2) * structure(k)
}

// Surface is how well every defocus and thickness of the support explains a spectrum.
type Surface struct {
	Defocus   []float64   // magnitudes in Å, of the middle of the support
	Thickness []float64   // in Å
	Log       [][]float64 // ln of the likelihood, [thickness][defocus]; the greatest is 0
	Best      Best
	// Rings is how much better, in ln of the likelihood, the best fit is than the best
	// without rings.
	Rings float64
}

// Best are the parameters of the greatest likelihood.
type Best struct {
	Defocus, Thickness float64 // Å
	// Noise is the power of the counting noise in Å², NoiseError the standard error of
	// its logarithm.
	Noise, NoiseError float64
	// Misfit is the mean square of the residuals in units of their errors.
	Misfit float64
}

// Explained reports whether the spectrum is one of carbon under a lens without
// aberrations: the misfit of simulated micrographs is 0.2 to 0.8, that of a lens with a
// spherical aberration of a millimetre about 5.
func (b Best) Explained() bool { return b.Misfit <= 2 }

const (
	stepDefocus   = 4 // Å
	stepThickness = 10
	mostThickness = 150
	mostDefocus   = 3000
	// coarse steps are tried first, and what lies around those whose ln of the
	// likelihood is no further than worthwhile from the best.
	coarse, worthwhile = 3, 25
	// knots of the smooth function by which the scattering of the support may differ
	// from that of independent atoms of carbon, and its standard deviation (natural
	// logarithms), of the whole and between knots.
	knots       = 5
	levelSpread = 0.35
	knotSpread  = 0.25
	modelError  = 0.1  // of ln Power, beside the spectrum's own
	leastFloor  = 0.04 // what scatters between the rings, relative to them
	floorSpread = 1.0  // of its logarithm
	parameters  = 3 + knots
)

// model is the power spectrum without rings.
type model struct {
	k2     []float64
	full   []float64 // scattered by 1 Å of carbon, before sin²
	weight []float64 // 1/σ²
	logs   []float64 // ln Power
	hats   [][knots]float64
	lambda float64
}

func (s *Spectrum) model(o Optics) *model {
	l := o.lens()
	m := &model{lambda: l.lambda}
	last := s.K[len(s.K)-1]
	for i, k := range s.K {
		m.k2 = append(m.k2, k*k)
		m.full = append(m.full, l.scattered(k))
		m.weight = append(m.weight, 1/(s.Error[i]*s.Error[i]+modelError*modelError))
		m.logs = append(m.logs, math.Log(s.Power[i]))
		var h [knots]float64
		at := (k - s.K[0]) / (last - s.K[0]) * (knots - 1)
		for j := range h {
			h[j] = max(0, 1-math.Abs(at-float64(j)))
		}
		m.hats = append(m.hats, h)
	}
	return m
}

// structure is the structure factor of hard spheres at the density and least distance
// of package carbon, after Percus and Yevick.
func structure(k float64) float64 {
	const d = carbon.Distance
	eta := math.Pi / 6 * carbon.Density * d * d * d
	x := 2 * math.Pi * k * d
	if x < 0.2 { // the limit, to 2 %; the terms below cancel
		return math.Pow(1-eta, 4) / ((1 + 2*eta) * (1 + 2*eta))
	}
	a := (1 + 2*eta) * (1 + 2*eta) / math.Pow(1-eta, 4)
	b := -6 * eta * (1 + eta/2) * (1 + eta/2) / math.Pow(1-eta, 4)
	c := eta * a / 2
	sin, cos := math.Sincos(x)
	g := a*(sin-x*cos)/(x*x) + b*(2*x*sin+(2-x*x)*cos-2)/(x*x*x) +
		c*(-x*x*x*x*cos+4*((3*x*x-6)*cos+(x*x*x-6*x)*sin+6))/(x*x*x*x*x)
	return 1 / (1 + 24*eta*g/x)
}

// fit finds the other parameters for a defocus and a thickness: ln of the noise, of
// the level, of the floor between rings, and of the knots. p is where it starts and
// what it ends with. It returns half the sum of squares, priors included, and the
// variance of ln noise.
func (m *model) fit(p *[parameters]float64, rings []float64, thickness float64) (cost, noiseVariance, misfit float64) {
	prior := [parameters]float64{0, math.Log(thickness), math.Log(leastFloor)}
	spread := [parameters]float64{10, levelSpread, floorSpread}
	for j := 3; j < parameters; j++ {
		spread[j] = knotSpread
	}
	eval := func(p *[parameters]float64, jac func(i int, r float64, d *[parameters]float64)) float64 {
		noise, level, floor := math.Exp(p[0]), p[1], math.Exp(p[2])
		sum := 0.0
		var d [parameters]float64
		for i, y := range m.logs {
			s := level
			for j, h := range m.hats[i] {
				s += h * p[3+j]
			}
			scale := math.Exp(s) * m.full[i]
			signal := scale * (rings[i] + floor)
			total := noise + signal
			r := y - math.Log(total)
			sum += m.weight[i] * r * r
			if jac != nil {
				d[0] = noise / total
				d[1] = signal / total
				d[2] = scale * floor / total
				for j, h := range m.hats[i] {
					d[3+j] = h * d[1]
				}
				jac(i, r, &d)
			}
		}
		misfit = sum
		for j, v := range p {
			x := (v - prior[j]) / spread[j]
			sum += x * x
		}
		return sum / 2
	}
	damp := 1e-3
	cost = eval(p, nil)
	var h [parameters][parameters]float64
	for range 30 {
		h = [parameters][parameters]float64{}
		var g [parameters]float64
		eval(p, func(i int, r float64, d *[parameters]float64) {
			w := m.weight[i]
			for a := range d {
				g[a] += w * r * d[a]
				for b := range a + 1 {
					h[a][b] += w * d[a] * d[b]
				}
			}
		})
		for a := range p {
			g[a] -= (p[a] - prior[a]) / (spread[a] * spread[a])
			h[a][a] += 1 / (spread[a] * spread[a])
		}
		better := false
		for range 8 {
			step := solve(h, g, damp)
			q := *p
			for a := range q {
				q[a] += max(-2, min(2, step[a]))
			}
			if c := eval(&q, nil); c < cost {
				better = cost-c > 1e-3
				*p, cost, damp = q, c, damp/5
				break
			}
			damp *= 5
		}
		if !better {
			break
		}
	}
	eval(p, nil)
	var unit [parameters]float64
	unit[0] = 1
	return cost, solve(h, unit, 0)[0], misfit / float64(len(m.logs))
}

// solve returns x of (h + damp·diag(h))·x = g by Cholesky's method; h is symmetric and
// positive definite, its lower half given.
func solve(h [parameters][parameters]float64, g [parameters]float64, damp float64) [parameters]float64 {
	for i := range parameters {
		h[i][i] *= 1 + damp
		for j := range i + 1 {
			s := h[i][j]
			for k := range j {
				s -= h[i][k] * h[j][k]
			}
			if i == j {
				h[i][i] = math.Sqrt(s)
			} else {
				h[i][j] = s / h[j][j]
			}
		}
	}
	for i := range parameters {
		for k := range i {
			g[i] -= h[i][k] * g[k]
		}
		g[i] /= h[i][i]
	}
	for i := parameters - 1; i >= 0; i-- {
		for k := i + 1; k < parameters; k++ {
			g[i] -= h[k][i] * g[k]
		}
		g[i] /= h[i][i]
	}
	return g
}

// rings sets dst to sin² of the lens at a defocus, averaged over the heights of a
// support of some thickness.
func (m *model) rings(dst []float64, defocus, thickness float64) {
	for i, k2 := range m.k2 {
		x := math.Pi * m.lambda * thickness * k2
		dst[i] = (1 - math.Cos(2*math.Pi*m.lambda*defocus*k2)*math.Sin(x)/x) / 2
	}
}

// start is where a fit begins.
func (m *model) start(thickness float64) (p [parameters]float64) {
	p[0], p[1], p[2] = m.logs[len(m.logs)-1], math.Log(thickness), math.Log(leastFloor)
	return p
}

// Fit compares the spectrum with every defocus up to what its resolution shows and
// every thickness.
func (s *Spectrum) Fit(o Optics) *Surface {
	m := s.model(o)
	f := &Surface{}
	for t := stepThickness / 2.; t < mostThickness; t += stepThickness {
		f.Thickness = append(f.Thickness, t)
	}
	// at 0.5 1/Å a ring is at least four samples wide
	most := min(s.Side/(8*m.lambda*0.5), mostDefocus)
	for d := 0.0; d <= most; d += stepDefocus {
		f.Defocus = append(f.Defocus, d)
	}
	for range f.Thickness {
		row := make([]float64, len(f.Defocus))
		for i := range row {
			row[i] = math.Inf(-1)
		}
		f.Log = append(f.Log, row)
	}
	rings := make([]float64, len(m.k2))
	best := math.Inf(-1)
	try := func(i, j int, p *[parameters]float64) {
		m.rings(rings, f.Defocus[j], f.Thickness[i])
		cost, variance, misfit := m.fit(p, rings, f.Thickness[i])
		f.Log[i][j] = -cost
		if -cost > best {
			best = -cost
			f.Best = Best{f.Defocus[j], f.Thickness[i], math.Exp(p[0]), math.Sqrt(variance), misfit}
		}
	}
	for i := coarse / 2; i < len(f.Thickness); i += coarse {
		p := m.start(f.Thickness[i])
		for j := 0; j < len(f.Defocus); j += coarse {
			try(i, j, &p)
		}
	}
	limit := best - worthwhile
	for i := coarse / 2; i < len(f.Thickness); i += coarse {
		for j := 0; j < len(f.Defocus); j += coarse {
			if f.Log[i][j] < limit {
				continue
			}
			for a := max(0, i-coarse/2); a <= min(len(f.Thickness)-1, i+coarse/2); a++ {
				p := m.start(f.Thickness[a])
				for b := max(0, j-coarse/2); b <= min(len(f.Defocus)-1, j+coarse/2); b++ {
					if a != i || b != j {
						try(a, b, &p)
					}
				}
			}
		}
	}
	// without rings: what scatters in all directions alike, or nothing to see
	none := math.Inf(-1)
	for _, level := range []float64{0.5, 0} {
		for i := range rings {
			rings[i] = level
		}
		for _, t := range f.Thickness {
			p := m.start(t)
			cost, _, _ := m.fit(&p, rings, t)
			none = max(none, -cost)
		}
	}
	f.Rings = best - none
	for _, row := range f.Log {
		for i := range row {
			row[i] -= best
		}
	}
	return f
}
