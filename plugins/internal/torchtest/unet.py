"""Trains the study's U-Net in PyTorch, written from the paper's description.

Usage: unet.py FOLDER, or unet.py WIDTH N H W THREADS.

With a folder: FOLDER/jobs.json lists the jobs; job i reads the
safetensors file FOLDER/i.in and writes FOLDER/i.torch.float32 and
FOLDER/i.torch.float64, its results in either precision. Safetensors are read
and written by hand here, so that nothing but torch is needed.

A job is {width, loss, learning_rate, scale, frozen, mixed}. Its input holds the
network's state under refocus's names, "images" [S,N,1,H,W] and "labels"
[S,N,H,W], a batch per step. The results are stored as F64: "initial." + name (the
parameters as PyTorch's layers draw them, before the input's replace them),
"output" (inference on the first batch before training), "loss" [S], "grad." +
name of the first step, "first." + name of the running statistics after it, and
the final state. The loss is multiplied by the scale before the backward pass and
the gradients are divided by it. In a mixed job the float32 network rounds to half
precision where the backends' documentation says so; the float64 one never does.

With numbers: takes one training step on random images for every line of
standard input and prints its duration and its processor time in seconds.
"""
import json
import struct
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def read(path):
    raw = open(path, "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + size])
    kinds = {"F32": torch.float32, "F64": torch.float64, "U8": torch.uint8}
    out = {}
    for name, e in head.items():
        if name == "__metadata__":
            continue
        a, b = (8 + size + v for v in e["data_offsets"])
        out[name] = torch.frombuffer(bytearray(raw[a:b]), dtype=kinds[e["dtype"]]).reshape(e["shape"])
    return out


def write(path, tensors):
    head, body = {}, b""
    for name, t in tensors.items():
        data = t.detach().to(torch.float64).contiguous().numpy().tobytes()
        head[name] = {"dtype": "F64", "shape": list(t.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + body)


class Rounded(torch.autograd.Function):
    """Rounds a value, and its gradient on the way back, to half precision."""

    @staticmethod
    def forward(ctx, x):
        return x.half().float()

    @staticmethod
    def backward(ctx, g):
        return g.half().float()


class RoundedWeight(torch.autograd.Function):
    """Rounds a weight to half precision; its gradient stays in float32."""

    @staticmethod
    def forward(ctx, x):
        return x.half().float()

    @staticmethod
    def backward(ctx, g):
        return g


def same(x):
    return x


class Conv(nn.Conv2d):
    weights = staticmethod(same)

    def forward(self, x):
        return self._conv_forward(x, self.weights(self.weight), self.bias)


def conv(cin, cout, kernel, stride=1, bias=False):
    return Conv(cin, cout, kernel, stride, kernel // 2, bias=bias)


class Unit(nn.Module):
    """A pre-activation residual unit. r rounds each result, as in all of the network."""

    def __init__(self, cin, cout, stride, r):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout, 3)
        if stride == 2:
            self.shortcut = conv(cin, cout, 1, 2)
        self.stride, self.r = stride, r

    def forward(self, x):
        r = self.r
        a = r(F.relu(r(self.bn1(x))))
        s = r(self.shortcut(a)) if self.stride == 2 else x
        y = r(self.conv1(a))
        y = r(self.conv2(r(F.relu(r(self.bn2(y))))))
        return r(y + s)


class Up(nn.Module):
    def __init__(self, cin, cout, r):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), conv(cin, cout, 3)
        self.bn2, self.conv2 = nn.BatchNorm2d(cout), conv(cout, cout, 3)
        self.r = r

    def forward(self, x, skip=None):
        r = self.r
        x = r(F.interpolate(x, scale_factor=2, mode="nearest"))
        if skip is not None:
            x = r(torch.cat([x, skip], 1))
        y = r(self.conv1(r(F.relu(r(self.bn1(x))))))
        return r(self.conv2(r(F.relu(r(self.bn2(y))))))


class Encoder(nn.Module):
    def __init__(self, w, r):
        super().__init__()
        self.init = nn.Module()
        self.init.conv, self.init.bn = conv(1, w, 7), nn.BatchNorm2d(w)
        for i in (1, 2, 3):
            down = nn.Module()
            down.unit1 = Unit(w << i - 1, w << i, 2, r)
            down.unit2 = Unit(w << i, w << i, 1, r)
            setattr(self, f"down{i}", down)
        self.r = r

    def forward(self, x):
        r = self.r
        x = r(F.max_pool2d(r(F.relu(r(self.init.bn(r(self.init.conv(r(x))))))), 2))
        skips = [x]
        for down in (self.down1, self.down2, self.down3):
            x = down.unit2(down.unit1(x))
            skips.append(x)
        return skips


class Decoder(nn.Module):
    def __init__(self, w, r):
        super().__init__()
        self.up1 = Up(8 * w + 4 * w, 4 * w, r)
        self.up2 = Up(4 * w + 2 * w, 2 * w, r)
        self.up3 = Up(2 * w + w, w, r)
        self.up4 = Up(w, w // 2, r)
        self.head = conv(w // 2, 2, 1, bias=True)
        self.r = r

    def forward(self, skips):
        x = self.up1(skips[3], skips[2])
        x = self.up2(x, skips[1])
        x = self.up3(x, skips[0])
        return self.r(self.head(self.up4(x)))


class UNet(nn.Module):
    """The network; mixed rounds every value and weight to half precision."""

    def __init__(self, w, mixed=False):
        super().__init__()
        r = Rounded.apply if mixed else same
        self.encoder = Encoder(w, r)
        self.decoder = Decoder(w, r)
        if mixed:
            for m in self.modules():
                if isinstance(m, Conv):
                    m.weights = RoundedWeight.apply

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(job, data, kind):
    torch.manual_seed(0)
    net = UNet(job["width"], job["mixed"] and kind == torch.float32)
    out = {"initial." + name: p.detach().clone() for name, p in net.named_parameters()}
    net.to(kind)
    for name, t in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            t.copy_(data[name])
    images, labels = data["images"].to(kind), data["labels"].long()

    net.eval()
    with torch.no_grad():
        out["output"] = torch.softmax(net(images[0]), 1)
    net.train()
    for name, p in net.named_parameters():
        p.requires_grad = name.split(".")[0] not in job["frozen"]
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=job["learning_rate"])
    losses = []
    for x, y in zip(images, labels):
        optimiser.zero_grad(set_to_none=True)
        z = net(x)
        if job["loss"] == "cross-entropy-on-probabilities":
            z = torch.softmax(z, 1)
        loss = F.cross_entropy(z, y)
        (loss * job["scale"]).backward()
        for p in net.parameters():
            if p.requires_grad:
                p.grad /= job["scale"]
        if not losses:
            for name, p in net.named_parameters():
                if p.requires_grad:
                    out["grad." + name] = p.grad.clone()
            for name, t in net.named_buffers():
                if not name.endswith("num_batches_tracked"):
                    out["first." + name] = t.clone()
        losses.append(loss.detach().double())
        optimiser.step()
    out["loss"] = torch.stack(losses)
    for name, t in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            out[name] = t
    return out


def main(folder):
    torch.set_num_threads(1)
    for i, job in enumerate(json.load(open(f"{folder}/jobs.json"))):
        data = read(f"{folder}/{i}.in")
        for kind in (torch.float32, torch.float64):
            write(f"{folder}/{i}.{kind}", train(job, data, kind))


def clock(width, n, h, w, threads):
    torch.set_num_threads(threads)
    net = UNet(width)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, y = torch.randn(n, 1, h, w), torch.randint(0, 2, (n, h, w))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        optimiser.zero_grad()
        loss = F.cross_entropy(torch.softmax(net(x), 1), y)
        loss.backward()
        optimiser.step()
        loss.item()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


if len(sys.argv) == 2:
    main(sys.argv[1])
else:
    clock(*map(int, sys.argv[1:]))
