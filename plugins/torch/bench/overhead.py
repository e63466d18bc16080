"""What the plugin costs beside plain PyTorch: processor time per training step.

    python3 plugins/torch/bench/overhead.py --refocus plugins/bin/refocus

Run it with the Python that the plugin is installed for. In turn, refocus trains the
study's U-Net through the plugin, and plugins/cpu/bench/pytorch.py the same network as
modules with torch.optim.Adam; each in a process of its own, with one thread, batches
of 16 images of 64×64 and the same PyTorch. Compared is the least user and system time
of a step over all rounds, of the process that computes: what other programs on the
machine disturb least.
"""

import argparse
import json
import os
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))


def cpu_ms(command):
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])["cpu_ms"]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--refocus", required=True, help="refocus's executable")
    p.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=10, help="of a measurement through the plugin")
    p.add_argument("--steps", type=int, default=8, help="of a measurement of plain PyTorch")
    a = p.parse_args()
    plugin = os.path.join(os.path.dirname(sys.executable), "refocus-backend-torch")
    for width in a.widths:
        least = {}
        shape = ["--width", width, "--size", 64, "--batch", 16, "--threads", 1]
        for _ in range(a.rounds):
            for name, command in {
                "plain": [sys.executable, here + "/../../cpu/bench/pytorch.py", *shape, "--steps", a.steps, "--format", "contiguous"],
                "plugin": [a.refocus, "bench", "train", "--backend", plugin, "--allow-unlocked", "--json", "--seconds", a.seconds, *shape],
            }.items():
                least[name] = min(least.get(name, float("inf")), cpu_ms(command))
        print(f"width {width}: plain PyTorch {least['plain']:.0f} ms, plugin {least['plugin']:.0f} ms of processor time a step: "
              f"{100 * (least['plugin'] / least['plain'] - 1):+.1f} %", flush=True)


if __name__ == "__main__":
    main()
