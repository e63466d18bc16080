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
// A specimen is the same, bit for bit, for any number of threads and on any
// architecture: no fused multiply-add may be introduced by the compiler (hence
// the explicit conversions around products), and the elementary functions come
// from internal/portable.
package hrtem
