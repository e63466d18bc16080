#!/usr/bin/env python3
"""Times the study's U-Net in PyTorch (Debian's python3-torch) and prints JSON.

One object per memory format; the faster one is what `refocus bench train` is
compared with. Effective GFLOPS count the convolutions as if computed directly:
a training step is three forward passes less the input gradient of the first
convolution. cpu_ms is the processor time of a step, which on a busy machine and
with one thread says more than the clock.

    /usr/bin/python3 plugins/cpu/bench/pytorch.py --width 64 --size 64 --batch 16
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def bn_relu(channels):
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


def conv3(cin, cout, stride=1):
    return nn.Conv2d(cin, cout, 3, stride, 1, bias=False)


class Unit(nn.Module):
    """Pre-activation residual unit; the strided shortcut follows the first ReLU."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.act1, self.conv1 = bn_relu(cin), conv3(cin, cout, stride)
        self.act2, self.conv2 = bn_relu(cout), conv3(cout, cout)
        self.shortcut = nn.Conv2d(cin, cout, 1, 2, bias=False) if stride == 2 else None

    def forward(self, x):
        a = self.act1(x)
        s = x if self.shortcut is None else self.shortcut(a)
        return self.conv2(self.act2(self.conv1(a))) + s


class Up(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.act1, self.conv1 = bn_relu(cin), conv3(cin, cout)
        self.act2, self.conv2 = bn_relu(cout), conv3(cout, cout)

    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], 1)
        return self.conv2(self.act2(self.conv1(self.act1(x))))


class UNet(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.init = nn.Sequential(nn.Conv2d(1, w, 7, 1, 3, bias=False), bn_relu(w), nn.MaxPool2d(2))
        self.down = nn.ModuleList(
            nn.Sequential(Unit(w << i, w << i + 1, 2), Unit(w << i + 1, w << i + 1, 1)) for i in range(3)
        )
        self.up = nn.ModuleList([Up(12 * w, 4 * w), Up(6 * w, 2 * w), Up(3 * w, w), Up(w, w // 2)])
        self.head = nn.Conv2d(w // 2, 2, 1)

    def forward(self, x):
        s0 = self.init(x)
        s1 = self.down[0](s0)
        s2 = self.down[1](s1)
        x = self.down[2](s2)
        for up, skip in zip(self.up, (s2, s1, s0, None)):
            x = up(x, skip)
        return torch.softmax(self.head(x), 1)


def flops(net, size):
    """Forward multiply-adds of one image, and those of the first convolution."""
    total, first = [0], [0]

    def count(m, _, y):
        n = y[0].numel() * m.weight[0].numel()
        total[0] += n
        if m.in_channels == 1:
            first[0] += n

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net(torch.zeros(1, 1, size, size))
    for h in hooks:
        h.remove()
    return total[0], first[0]


def measure(a, memory_format):
    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    net = UNet(a.width)
    macs, first = flops(net, a.size)
    net = net.to(memory_format=memory_format)
    images = torch.rand(a.batch, 1, a.size, a.size).to(memory_format=memory_format)
    labels = torch.randint(0, 2, (a.batch, a.size, a.size))
    if a.inference:
        net.eval()

        def step():
            with torch.no_grad():
                net(images)

        work = 2 * macs * a.batch
    else:
        frozen = {"encoder": [net.init, net.down], "decoder": [net.up, net.head], "none": []}[a.freeze]
        for part in frozen:
            part.requires_grad_(False)
        adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-4)

        def step():
            adam.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            adam.step()

        work = (6 * macs - 2 * first) * a.batch

    for _ in range(a.warmup):
        step()
    times, cpu = [], time.process_time()
    for _ in range(a.steps):
        t = time.perf_counter()
        step()
        times.append(time.perf_counter() - t)
    cpu = (time.process_time() - cpu) / a.steps
    best = sorted(times)[len(times) // 2]
    return {
        "peer": "pytorch " + torch.__version__,
        "memory_format": str(memory_format).split(".")[-1],
        "width": a.width, "size": a.size, "batch": a.batch, "threads": a.threads,
        "freeze": a.freeze, "inference": a.inference,
        "step_ms": best * 1e3,
        "fastest_step_ms": min(times) * 1e3,
        "cpu_ms": cpu * 1e3,
        "images_per_s": a.batch / best,
        "gflops": work / best / 1e9,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warmup", type=int, default=1)
    p.add_argument("--freeze", choices=["none", "encoder", "decoder"], default="none")
    p.add_argument("--inference", action="store_true")
    p.add_argument("--format", choices=["contiguous", "channels_last", "both"], default="both")
    a = p.parse_args()
    if a.format == "both":
        # Each in a process of its own, so that the peak memory is its own.
        args = [x for x in sys.argv[1:]]
        for f in ("contiguous", "channels_last"):
            subprocess.run([sys.executable, os.path.abspath(__file__), *args, "--format", f], check=True)
        return
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    print(json.dumps(measure(a, formats[a.format])), flush=True)


if __name__ == "__main__":
    main()
