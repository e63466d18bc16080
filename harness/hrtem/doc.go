// Package hrtem simulates labelled high-resolution transmission electron
// microscopy (HRTEM) images of nanoparticles on amorphous carbon.
//
// One structure is drawn (crystalline spheres in random orientations on a
// periodic carbon film), sent through a multislice calculation for several
// frozen-phonon draws, and stored as complex exit waves together with a binary
// label. Every imaging condition, a defocus and a dose, is then applied to the
// same exit waves:
//
//	Config ─► Simulator.Specimen ─► exit waves + label ─► Simulator.Image ─► standardised image
//
// The sub-packages hold one step each: crystal (cells, stacking faults,
// particles), carbon (the film), kirkland (scattering factors and electron
// constants), multislice (potentials, propagation), optics (transfer function,
// counting noise) and fft.
//
// Units are Å, 1/Å (k = 1/d, not 2π/d), eV, V, V·Å for projected potentials and
// electrons/Å² for doses. Defocus inside the wave optics is positive for
// underfocus; a data set's label is related to it by Config.DefocusSign.
//
// The method follows L. Rangel DaCosta, C. Oill and M. C. Scott, "Strategies for
// effective transfer learning for HRTEM analysis with neural networks",
// Elemental Microscopy (2025), doi:10.69761/kjte5358, and E. J. Kirkland,
// "Advanced Computing in Electron Microscopy" (Springer). Where the study is
// silent, Config's fields say that the value is our choice.
//
// # Labels
//
// The study's label is the phase of the particles' exit wave in vacuum above π/16,
// blurred by 1 or 1.6 Å; it does not say where the blurred map is cut. The phase
// gathers in the atomic columns, so that a cut at 0.5 empties the masks of CdSe, ZnS and
// Si particles of 20 Å. With a cut at 0.1, labels follow the outlines for all nine
// crystals at the study's sizes: their area is 0.88 to 1.10 of the particles' discs, the
// intersection over union 0.88 to 0.99 (TestAllStructures with REFOCUS_HRTEM=paper). At
// the reduced scale, with particles half as thick, 0.07 gives an area of
// 0.65 (silicon of 8–10 Å) to 1.17.
//
// # The sign of defocus
//
// The study does not say whether positive defocus is under- or overfocus. Zero
// defocus is where the particles alone have least contrast, their mid-plane; the film
// lies half a particle and half a film further down. So on one side, and only there,
// the film comes into focus and its speckle nearly vanishes: for a particle of 10 Å
// radius on 30 Å of carbon the speckle is 0.042 at 25 Å overfocus and 0.112 at 25 Å
// underfocus. In the study's figures networks pretrained at +5 and +10 nm have the
// lowest loss on their own domain and fail far away, which is what an easy, weakly
// speckled background would do. DefocusSign = −1, positive labels being overfocus,
// puts that on the positive side. Training confirms it at small scale: of models
// pretrained at ±10 nm the losses over all defoci rank like the published ones with a
// correlation of 0.84, and with mirrored labels, the other sign, of 0.44 (two times
// eleven medians of three; harness/testdata/defocus-sign.toml).
//
// # Sampling
//
// Compared with abTEM, an independent program, exit waves agree to 0.3 % of the root
// mean square of ψ−1 once its treatment of positions is aligned (see abtem/README.md).
//
// A specimen is the same, bit for bit, for any number of threads and on any
// architecture: no fused multiply-add may be introduced by the compiler (hence
// the explicit conversions around products), and the elementary functions come
// from internal/portable.
package hrtem
