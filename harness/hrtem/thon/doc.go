// Package thon estimates focus and counting noise of micrographs from their power
// spectra: amorphous carbon shows rings, after F. Thon, wherever the lens transfers no
// phase.
//
//	Image ─► Measure ─► Spectrum.Fit ─► Surface ─► Side ─► View ─┐
//	Image ─► Measure ─► Spectrum.Fit ─► Surface ─► Side ─► View ─┴─► Locate ─► Focus
//
// Look makes the View of an image; Locate combines those of a session.
//
// The expected spectrum is that of independent atoms of a film of carbon, each at its
// own height, seen through a lens without spherical aberration,
//
//	P(k) = N + n·t·|2σC·f(k)·E(k)|²·S(k)·s(k)·[½(1 − cos(2πλΔf·k²)·sinc(λt·k²)) + b]
//
// with the counting noise N, the scattering factor f, the envelope E of the focal spread,
// the structure factor S of hard spheres (J. K. Percus and G. J. Yevick, Phys. Rev. 110
// (1958) 1), the film's density n and thickness t, the underfocus Δf of its middle, a
// smooth function s near 1 for what carbon this is, and what scatters between the rings,
// b. Spectra are medians over rings of periodograms, whose logarithm has a known error,
// so that the reflections of crystals do not count; every Δf and t is tried.
//
// Such rings are the same on both sides of focus. The side is told by the atoms: their
// potential is a sum of peaks, so that the image with the lens's phase reversal taken
// back (Side) is skewed to one side in underfocus, where they are dark, and to the
// other in overfocus. Where the pooled evidence is weak, Locate says so and gives both.
//
// The study counts defocus from the particles, which lie on the film's beam side: their
// middle is upstream of the film's by half of each thickness, which Locate allows for.
//
// Lengths are in Å, frequencies in 1/Å; underfocus is positive. Not modelled:
// spherical aberration, astigmatism, a detector's response. README.md states bias,
// spread and coverage.
package thon
