#!/usr/bin/env python3
"""Measures the CPU backend next to PyTorch, ONNX Runtime and OpenCV.

The programs of one comparison take turns, each in a process of its own, and of
each the fastest turn counts (a turn's figure is its median step), so that load
from outside disturbs all alike. Columns "time", "CPU" and "memory" are relative to
the comparison's first line: 2.0 beside a peer says that refocus is twice as fast.
CPU is processor time of all threads; on a busy machine and with --threads 1 it says
more than the clock.

    just bench                        all comparisons, some minutes
    just bench train --json           those whose name contains "train"
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))


def refocus(a, mode, width, size, batch, *flags, threads=None):
    return [a.refocus, "bench", mode, "--json", "--seconds", a.seconds, "--width", width, "--size", size,
            "--batch", batch, "--threads", threads or a.threads, *flags]


def comparisons(a, folder):
    """Yields (name, {label: command})."""
    # PyTorch takes two steps, or as many as fill the time at 60 GFLOP/s.
    for width, size in (64, 64), (64, 128), (16, 64):
        gflop = 96 * (width / 64) ** 2 * (size / 64) ** 2
        steps = max(2, round(float(a.seconds) * 60 / gflop))
        torch = [sys.executable, here + "/pytorch.py", "--width", width, "--size", size, "--batch", 16,
                 "--threads", a.threads, "--steps", steps, "--format"]
        yield f"train, width {width}, {size}×{size}, batch 16, {a.threads} threads", {
            "refocus": refocus(a, "train", width, size, 16),
            "PyTorch, contiguous": torch + ["contiguous"],
            "PyTorch, channels last": torch + ["channels_last"],
        }
    if a.threads > 1:
        for width, size in (64, 64), (64, 128), (16, 64):
            yield f"threads, width {width}, {size}×{size}, batch 16", {
                f"{n} thread{'s' * (n > 1)}": refocus(a, "train", width, size, 16, threads=n) for n in (a.threads, 1)
            }
    for width, size in (64, 64), (16, 64):
        yield f"freeze, width {width}, {size}×{size}, batch 16, {a.threads} threads", {
            "nothing frozen": refocus(a, "train", width, size, 16),
            "encoder frozen": refocus(a, "train", width, size, 16, "--freeze", "encoder"),
            "decoder frozen": refocus(a, "train", width, size, 16, "--freeze", "decoder"),
        }
    for width, size in (64, 512), (16, 512), (16, 2048):
        model = f"{folder}/{width}.onnx"
        rest = [model, size, 1, a.threads, a.seconds]
        yield f"predict, width {width}, {size}×{size}, {a.threads} threads", {
            "refocus": refocus(a, "predict", width, size, 1, "--save", model),
            "ONNX Runtime": ["node", here + "/onnxruntime.mjs", a.node_modules, *rest],
            "OpenCV": [sys.executable, here + "/opencv.py", *rest],
        }


def turn(command):
    """Runs a command that prints a JSON object. Without a peer it says why not."""
    try:
        r = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    except OSError as e:
        return {"error": str(e)}
    if r.returncode:
        lines = [x for x in r.stderr.splitlines() if "Error" in x] or r.stderr.splitlines() or ["no message"]
        return {"error": lines[-1].strip()}
    return json.loads(r.stdout)


def measure(programs, rounds):
    best = {}
    for _ in range(rounds):
        for label, command in programs.items():
            r, old = turn(command), best.get(label)
            if old and "error" not in r and "error" not in old:
                memory = max(r["peak_rss_mib"], old["peak_rss_mib"])
                cpu = min(r.get("cpu_ms", 0), old.get("cpu_ms", 0))
                r = dict(min(r, old, key=lambda x: x["step_ms"]), cpu_ms=cpu, peak_rss_mib=memory)
            best[label] = r
    first = next(iter(best.values()))
    for r in best.values():
        if "error" in r or "error" in first:
            continue
        r["time"] = r["step_ms"] / first["step_ms"]
        if first.get("cpu_ms"):
            r["cpu"] = r["cpu_ms"] / first["cpu_ms"]
        r["memory"] = r["peak_rss_mib"] / first["peak_rss_mib"]
        if "gflops" not in r:  # the same network and images
            r["images_per_s"] = first["images_per_s"] / r["time"]
            r["gflops"] = first["gflops"] / r["time"]
    return best


def show(name, best):
    first = next(iter(best.values()))
    print(f"\n{name}\n{'':26}{'ms/step':>9}{'CPU ms':>9}{'images/s':>10}{'GFLOP/s':>9}{'% of peak':>11}{'MiB':>7}"
          f"{'time':>7}{'CPU':>7}{'memory':>8}")
    for label, r in best.items():
        if "error" in r:
            print(f"  {label:24}not measured: {r['error']}")
        elif "time" in r:
            # The peak of as many threads as the line has.
            peak = r.get("peak_gflops", first["peak_gflops"])
            share = f"{100 * r['gflops'] / peak:.0f}" if peak else "–"
            cpu = f"{r['cpu']:.2f}" if "cpu" in r else "–"
            print(f"  {label:24}{r['step_ms']:9.1f}{r.get('cpu_ms', 0):9.1f}{r['images_per_s']:10.2f}{r['gflops']:9.1f}{share:>11}"
                  f"{r['peak_rss_mib']:7.0f}{r['time']:7.2f}{cpu:>7}{r['memory']:8.2f}")
    sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("only", nargs="*", help="measure the comparisons whose name contains one of these")
    p.add_argument("--refocus", default="plugins/bin/refocus", help="the program to measure")
    p.add_argument("--node-modules", default=os.environ.get("REFOCUS_NODE_MODULES", "node_modules"),
                   help="folder that has onnxruntime-node")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--seconds", default="2", help="length of a turn, at least; slow steps take longer")
    p.add_argument("--rounds", type=int, default=2, help="turns of each program")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    a = p.parse_args()
    report = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "comparisons": {}}
    if not a.json:
        print(f"{report['cores']} cores, load {report['load']:.1f} before the first step")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, programs in comparisons(a, folder):
            if a.only and not any(x in name for x in a.only):
                continue
            best = measure(programs, a.rounds)
            report["comparisons"][name] = best
            failed = failed or "error" in next(iter(best.values()))
            if not a.json:
                show(name, best)
    if a.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
    sys.exit(failed)


if __name__ == "__main__":
    main()
