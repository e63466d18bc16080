"""Trains the study's U-Net in PyTorch, written from the paper's description.

Usage: unet.py FOLDER, or unet.py WIDTH N H W THREADS.

With a folder: FOLDER/jobs.json lists the jobs; job i reads the
safetensors file FOLDER/i.in and writes FOLDER/i.torch.float32 and
FOLDER/i.torch.float64, its results in either precision. Safetensors are read
and written by hand here, so that nothing but torch is needed.

The input holds the network's state under refocus's names, "images" [S,N,1,H,W]
and "labels" [S,N,H,W], a batch per step. The results are stored as F64:
"output" (inference on the first batch before training), "loss" [S], "grad." +
name of the first step, "first." + name of the running statistics after it, and
the final state with Adam's moments.

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


class Unit(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        if stride == 2:
            self.shortcut = nn.Conv2d(cin, cout, 1, 2, bias=False)
        self.stride = stride

    def forward(self, x):
        a = F.relu(self.bn1(x))
        s = self.shortcut(a) if self.stride == 2 else x
        return self.conv2(F.relu(self.bn2(self.conv1(a)))) + s


class Up(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)

    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], 1)
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class Encoder(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.init = nn.Module()
        self.init.conv = nn.Conv2d(1, w, 7, 1, 3, bias=False)
        self.init.bn = nn.BatchNorm2d(w)
        for i in (1, 2, 3):
            down = nn.Module()
            down.unit1 = Unit(w << i - 1, w << i, 2)
            down.unit2 = Unit(w << i, w << i, 1)
            setattr(self, f"down{i}", down)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.init.bn(self.init.conv(x))), 2)
        skips = [x]
        for down in (self.down1, self.down2, self.down3):
            x = down.unit2(down.unit1(x))
            skips.append(x)
        return skips


class Decoder(nn.Module):
    def __init__(self, w, classes):
        super().__init__()
        self.up1 = Up(8 * w + 4 * w, 4 * w)
        self.up2 = Up(4 * w + 2 * w, 2 * w)
        self.up3 = Up(2 * w + w, w)
        self.up4 = Up(w, w // 2)
        self.head = nn.Conv2d(w // 2, classes, 1)

    def forward(self, skips):
        x = self.up1(skips[3], skips[2])
        x = self.up2(x, skips[1])
        x = self.up3(x, skips[0])
        return self.head(self.up4(x))


class UNet(nn.Module):
    def __init__(self, w, classes=2):
        super().__init__()
        self.encoder = Encoder(w)
        self.decoder = Decoder(w, classes)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(job, data, kind):
    torch.manual_seed(0)
    net = UNet(job["width"]).to(kind)
    own = net.state_dict()
    for name in own:
        if not name.endswith("num_batches_tracked"):
            own[name].copy_(data[name])
    images, labels = data["images"].to(kind), data["labels"].long()

    def loss_of(z, y):
        return F.cross_entropy(torch.softmax(z, 1) if job["on_probabilities"] else z, y)

    out = {}
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
        loss = loss_of(net(x), y)
        loss.backward()
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
    for name, p in net.named_parameters():
        s = optimiser.state.get(p)
        if s:
            out["adam.m." + name], out["adam.v." + name] = s["exp_avg"], s["exp_avg_sq"]
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
