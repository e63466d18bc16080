"""Compare exit waves and images with abTEM (https://abtem.org).

    python compare.py DIR

DIR holds what the Go program beside this file wrote. Needs abtem and pyfftw from
PyPI; the figures in README.md are of abtem 1.0.11.

Both programs use Kirkland's parametrisation, whole atoms in slices of 2 Å, the same
grid and a band limit at two thirds of its Nyquist frequency. Two ways of aligning
the rest are compared:

* "as it is": abTEM deposits atoms bilinearly on the grid and divides by a sinc, and
  tapers its band limit;
* "aligned": a sharp band limit, and atoms deposited at their exact positions up to
  0.95 of the Nyquist frequency, which is what ours approximates.

abTEM's first axis is x, ours is y. Waves and images are compared at 0.2 Å. Waves are
relative to the root mean square of |psi - 1|, images to their standard deviation.
"""

import glob
import json
import os
import sys
import time

import abtem
import ase
import numpy as np
from abtem.integrals import ScatteringFactorProjectionIntegrals
from ase.data import chemical_symbols

abtem.config.set({"device": "cpu", "fftw.threads": 2, "num_workers": 2, "diagnostics.progress_bar": False})


class Exact(ScatteringFactorProjectionIntegrals):
    """abTEM's projected potentials with exact atom positions."""

    def integrate_on_grid(self, atoms, a, b, gpts, sampling, device="cpu"):
        n, px = gpts[0], sampling[0]
        k = np.fft.fftfreq(n, px)
        total = np.zeros(gpts, complex)
        for number in np.unique(atoms.numbers):
            x, y = atoms.positions[atoms.numbers == number, :2].T
            factor = np.exp(-2j * np.pi * np.outer(k, x)) @ np.exp(-2j * np.pi * np.outer(y, k))
            total += factor / px**2 * self.get_scattering_factor(chemical_symbols[number], gpts, sampling, device)
        total[k[:, None] ** 2 + k[None] ** 2 > (0.95 / (2 * px)) ** 2] = 0
        return np.fft.ifft2(total).real.astype(np.float32)


def exit_wave(case, taper, integrator):
    atoms = np.array(case["atoms"])
    system = ase.Atoms(
        numbers=atoms[:, 0].astype(int),
        positions=atoms[:, 1:],
        cell=[case["cell"], case["cell"], case["slice"] * case["slices"]],
        pbc=True,
    )
    with abtem.config.set({"antialias.cutoff": 2 / 3, "antialias.taper": taper}):
        potential = abtem.Potential(
            system,
            gpts=(case["grid"], case["grid"]),
            slice_thickness=case["slice"],
            parametrization="kirkland",
            projection="infinite",
            integrator=integrator,
        )
        assert len(potential) == case["slices"], (len(potential), case["slices"])
        start = time.perf_counter()
        waves = abtem.PlaneWave(energy=case["energy"]).multislice(potential).compute()
        return waves.array, time.perf_counter() - start


def crop(wave, n):
    """Fourier crop to n samples without the unpaired frequencies."""
    m = wave.shape[0]
    f = np.fft.fftshift(np.fft.fft2(wave))
    f = f[(m - n) // 2 : (m + n) // 2, (m - n) // 2 : (m + n) // 2].copy()
    f[0] = 0
    f[:, 0] = 0
    return np.fft.ifft2(np.fft.ifftshift(f)) * (n / m) ** 2


def image(case, wave, underfocus):
    waves = abtem.Waves(wave.astype(np.complex64), sampling=case["cell"] / len(wave), energy=case["energy"])
    ctf = abtem.CTF(energy=case["energy"], defocus=underfocus, focal_spread=case["focal_spread"])
    return waves.apply_ctf(ctf).intensity().compute().array


def difference(got, want, scale):
    d = np.abs(got - want)
    return "RMS %.3f %%, max %.2f %%" % (100 * np.sqrt(np.mean(d**2)) / scale, 100 * d.max() / scale)


def main(directory):
    print("abTEM", abtem.__version__)
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        with open(path) as f:
            case = json.load(f)
        n = case["output"]
        ours = np.fromfile(path[:-5] + ".wave", np.complex64).reshape(n, n)
        scale = np.sqrt(np.mean(np.abs(ours - 1) ** 2))
        print("%s: %d atoms, %d slices, RMS of |psi - 1| %.4f" % (case["name"], len(case["atoms"]), case["slices"], scale))
        for label, taper, integrator in (("aligned", 0.0, Exact("kirkland")), ("as it is", 0.01, None)):
            # The first run plans and compiles.
            runs = [exit_wave(case, taper, integrator) for _ in range(2 if integrator else 5)]
            wave, seconds = crop(runs[-1][0].T, n), min(r[1] for r in runs)
            print("  %s: wave %s" % (label, difference(ours, wave, scale)))
            for name, underfocus in sorted(case["underfocus"].items()):
                mine = np.fromfile(os.path.join(directory, name), np.float32).reshape(n, n)
                theirs = image(case, wave.T, underfocus).T
                print("  %s: image at %+.1f A %s" % (label, underfocus, difference(mine, theirs, theirs.std())))
        print("  seconds for the exit wave: abTEM %.3f on two threads, ours %.3f on one" % (seconds, case["seconds"]))


if __name__ == "__main__":
    main(sys.argv[1])
