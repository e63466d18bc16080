"""Compare exit waves and images with abTEM (https://abtem.org).

    python compare.py DIR

DIR holds what the Go program beside this file wrote. Needs abtem and pyfftw from
PyPI; versions 1.0.11 and 0.15 were used for the figures in README.md.

Conventions are aligned as follows:

* potentials: Kirkland's parametrisation, whole atoms in slices of 2 Å, "infinite"
  projection; abTEM's z axis is the beam's direction, so it gets depths;
* band limit: a sharp one at two thirds of the Nyquist frequency of 0.1 Å samples.
  abTEM deposits atoms bilinearly and divides by a sinc, which is wrong by
  1 to 2 % at 1/Å on such a grid and by a quarter of that on one of 0.05 Å.
  The comparison therefore runs abTEM on the finer grid with the same band limit in
  1/Å; "same grid" repeats it at 0.1 Å with abTEM's own settings;
* arrays: abTEM's first axis is x, ours is y;
* waves are compared after a Fourier crop to 0.2 Å, images at this sampling.
"""

import glob
import json
import os
import sys
import time

import abtem
import ase
import numpy as np

abtem.config.set({"device": "cpu", "fftw.threads": 2, "num_workers": 2, "diagnostics.task_progress": False, "diagnostics.progress_bar": False})


def exit_wave(case, refine, taper):
    atoms = np.array(case["atoms"])
    system = ase.Atoms(
        numbers=atoms[:, 0].astype(int),
        positions=atoms[:, 1:],
        cell=[case["cell"], case["cell"], case["slice"] * case["slices"]],
        pbc=True,
    )
    gpts = case["grid"] * refine
    with abtem.config.set({"antialias.cutoff": 2 / 3 / refine, "antialias.taper": taper}):
        potential = abtem.Potential(
            system,
            gpts=(gpts, gpts),
            slice_thickness=case["slice"],
            parametrization="kirkland",
            projection="infinite",
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
    # Our lens has no aperture; abTEM's own applies none for the default cutoff.
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
        for label, refine, taper in (("aligned", 2, 0.0), ("same grid", 1, 0.01)):
            exit_wave(case, refine, taper)  # plans and compiles
            wave, seconds = exit_wave(case, refine, taper)
            wave = crop(wave.T, n)
            print("  %s: wave %s" % (label, difference(ours, wave, scale)))
            for name, underfocus in sorted(case["underfocus"].items()):
                mine = np.fromfile(os.path.join(directory, name), np.float32).reshape(n, n)
                theirs = image(case, wave.T, underfocus).T
                print("  %s: image at %+.1f A %s of its contrast" % (label, underfocus, difference(mine, theirs, theirs.std())))
            if refine == 1:
                print("  time of the exit wave: abTEM %.2f s on two threads, ours %.3f s on one: ratio %.1f" % (seconds, case["seconds"], seconds / case["seconds"]))


if __name__ == "__main__":
    main(sys.argv[1])
