"""The study's U-Net in PyTorch: the oracle of the CPU backend's tests.

usage: oracle.py FOLDER

FOLDER/cases.json lists cases {name, width, loss, frozen, mixed,
scale, steps, batch, rate}; weights
are in FOLDER/NAME.in.safetensors, images and labels in FOLDER/data.safetensors.
For every case and for float32 and float64 it writes to FOLDER/NAME.DTYPE.safetensors:
output (inference), loss and grad.* of the first batch in training mode, losses of
the Adam steps, and stat.* (running statistics) after them. For a mixed case the
float32 network rounds to half precision as the backend documents.
FOLDER/init.safetensors gets a freshly initialised network.
"""
import json
import struct
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

DTYPES = {"F32": np.float32, "F64": np.float64, "U8": np.uint8}


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    return {k: torch.from_numpy(np.frombuffer(data[8 + n + e["data_offsets"][0]:8 + n + e["data_offsets"][1]],
                                              DTYPES[e["dtype"]]).reshape(e["shape"]).copy()) for k, e in head.items()}


def write(path, tensors):
    head, body, at = {}, b"", 0
    for k, t in tensors.items():
        raw = t.detach().to(torch.float64).contiguous().numpy().tobytes()
        head[k] = {"dtype": "F64", "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        body += raw
        at += len(raw)
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + body)


class Half(torch.autograd.Function):
    """Rounds a value, and its gradient on the way back, to half precision."""

    @staticmethod
    def forward(ctx, x):
        return x.half().float()

    @staticmethod
    def backward(ctx, g):
        return g.half().float()


class HalfWeight(torch.autograd.Function):
    """Rounds a weight; its gradient stays in float32."""

    @staticmethod
    def forward(ctx, x):
        return x.half().float()

    @staticmethod
    def backward(ctx, g):
        return g


def same(x):
    return x


class Conv(nn.Conv2d):
    mixed = False

    def forward(self, x):
        w = HalfWeight.apply(self.weight) if self.mixed else self.weight
        return self._conv_forward(x, w, self.bias)


def conv(i, o, k, stride=1, bias=False):
    return Conv(i, o, k, stride, k // 2, bias=bias)


class Unit(nn.Module):
    """A pre-activation residual unit."""

    def __init__(self, i, o, r):
        super().__init__()
        self.r, self.first = r, i != o
        self.bn1, self.bn2 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        self.conv1, self.conv2 = conv(i, o, 3, 2 if self.first else 1), conv(o, o, 3)
        if self.first:
            self.shortcut = conv(i, o, 1, 2)

    def forward(self, x):
        r = self.r
        a = r(F.relu(r(self.bn1(x))))
        s = r(self.shortcut(a)) if self.first else x
        y = r(self.conv1(a))
        y = r(self.conv2(r(F.relu(r(self.bn2(y))))))
        return r(y + s)


class Up(nn.Module):
    def __init__(self, i, o, r):
        super().__init__()
        self.r = r
        self.bn1, self.bn2 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        self.conv1, self.conv2 = conv(i, o, 3), conv(o, o, 3)

    def forward(self, x, skip):
        r = self.r
        x = r(F.interpolate(x, scale_factor=2, mode="nearest"))
        if skip is not None:
            x = r(torch.cat([x, skip], 1))
        x = r(self.conv1(r(F.relu(r(self.bn1(x))))))
        return r(self.conv2(r(F.relu(r(self.bn2(x))))))


class UNet(nn.Module):
    def __init__(self, w, mixed=False):
        super().__init__()
        r = self.r = Half.apply if mixed else same
        enc, dec = nn.Module(), nn.Module()
        enc.init = nn.Module()
        enc.init.conv, enc.init.bn = conv(1, w, 7), nn.BatchNorm2d(w)
        for d in (1, 2, 3):
            down = nn.Module()
            down.unit1, down.unit2 = Unit(w << d - 1, w << d, r), Unit(w << d, w << d, r)
            setattr(enc, f"down{d}", down)
        dec.up1, dec.up2 = Up(12 * w, 4 * w, r), Up(6 * w, 2 * w, r)
        dec.up3, dec.up4 = Up(3 * w, w, r), Up(w, w // 2, r)
        dec.head = conv(w // 2, 2, 1, bias=True)
        self.encoder, self.decoder = enc, dec
        for m in self.modules():
            if isinstance(m, Conv):
                m.mixed = mixed

    def forward(self, x):
        """The logits."""
        e, d, r = self.encoder, self.decoder, self.r
        x = r(F.max_pool2d(r(F.relu(r(e.init.bn(r(e.init.conv(r(x))))))), 2))
        skips = [None, x]
        for down in (e.down1, e.down2, e.down3):
            x = down.unit2(down.unit1(x))
            skips.append(x)
        skips.pop()
        for up in (d.up1, d.up2, d.up3, d.up4):
            x = up(x, skips.pop())
        return r(d.head(x))


def loss_of(kind, logits, labels):
    if kind == "cross-entropy-on-probabilities":
        logits = logits.softmax(1)
    return F.cross_entropy(logits, labels)


def run(case, weights, images, labels, dtype):
    net = UNet(case["width"], case["mixed"] and dtype == torch.float32)
    net.load_state_dict(weights, strict=False)
    net = net.to(dtype)
    images = images.to(dtype)
    out = {}
    net.eval()
    with torch.no_grad():
        out["output"] = net(images[:case["batch"]]).softmax(1)
    for name, p in net.named_parameters():
        p.requires_grad_(name.split(".")[0] != case["frozen"])
    net.train()
    adam = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=case["rate"])
    losses = []
    scale = case["scale"]
    for step in range(case["steps"]):
        index = [(step * case["batch"] + i) % len(images) for i in range(case["batch"])]
        adam.zero_grad()
        loss = loss_of(case["loss"], net(images[index]), labels[index])
        (loss * scale).backward()
        losses.append(loss.detach())
        for name, p in net.named_parameters():
            if p.grad is not None:
                p.grad /= scale
                if step == 0:
                    out["grad." + name] = p.grad.clone()
        adam.step()
    out["losses"] = torch.stack(losses)
    for name, b in net.named_buffers():
        if "running" in name:
            out["stat." + name] = b
    return out


def main(folder):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    data = read(folder + "/data.safetensors")
    images, labels = data["images"], data["labels"].long()
    for case in json.load(open(folder + "/cases.json")):
        weights = read(f"{folder}/{case['name']}.in.safetensors")
        for dtype in (torch.float32, torch.float64):
            write(f"{folder}/{case['name']}.{str(dtype)[6:]}.safetensors", run(case, weights, images, labels, dtype))
    write(folder + "/init.safetensors", dict(UNet(16).named_parameters()))


main(sys.argv[1])
