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

A gradient jumps where a ReLU's input is 0 and where the largest value of a pooling
window changes, so before each step the float64 run moves the biases before ReLUs
and some pixels to keep the step away from there (see separate). Whoever repeats
the run must take them from its results: "images" [S,N,1,H,W], and "bias." + name
[S,C], to be set before the inference and before each step. The float32 run does,
and its results hold "slack" [S], see Switches.slack.

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


# What a pooling window's largest value is above the next, at least.
POOL_MARGIN = 3e-4


class Switches:
    """What a forward pass has at the places where the gradient can jump."""

    def __init__(self, moving):
        self.moving = moving  # whether relu moves biases
        self.inputs = []  # of the ReLUs, in order
        self.pooled = None  # what is pooled

    def relu(self, bn, x):
        if self.moving:
            x = x + move(bn, x)
        self.inputs.append(x.detach().double())
        return x

    def windows(self):
        """How far the largest value of each window is above the next [N,C,H/2,W/2].

        Among the zeros of a ReLU either may be taken: the ReLU stops the gradient.
        """
        n, c, h, w = self.pooled.shape
        x = self.pooled.reshape(n, c, h // 2, 2, w // 2, 2).transpose(3, 4).reshape(n, c, h // 2, w // 2, 4)
        two = x.topk(2, dim=4).values
        return torch.where(two[..., 0] > 0, two[..., 0] - two[..., 1], torch.inf)

    def slack(self, exact):
        """How many times farther the exact values are from where the gradient jumps
        than these are from the exact ones, in the layer where it is least."""
        far = [(e.abs().min(), (x - e).abs().max()) for x, e in zip(self.inputs, exact.inputs)]
        far.append((exact.windows().min() / 2, (self.pooled - exact.pooled).abs().max()))
        return min((margin / deviation).item() for margin, deviation in far)


switches = None  # of the forward pass under way, if they matter


def relu(bn, x, r):
    """A BatchNormalization and its ReLU."""
    x = r(bn(x))
    return r(F.relu(switches.relu(bn, x) if switches else x))


def pool(x):
    if switches:
        switches.pooled = x.detach().double()
    return F.max_pool2d(x, 2)


def run(net, images, moving=False):
    """The network's output and the Switches of computing it."""
    global switches
    switches = Switches(moving)
    return net(images), switches


def move(bn, x):
    """Moves each channel's bias so that 0 lies amidst the widest gap between
    neighbours among the middle half of the values x; returns by how much."""
    v = x.transpose(0, 1).flatten(1).sort(1).values
    n = v.shape[1]
    low, high = v[:, n // 4:n - n // 4 - 1], v[:, n // 4 + 1:n - n // 4]
    widest = (high - low).argmax(1, keepdim=True)
    middle = (low + high).gather(1, widest).flatten() / 2
    bias = bn.bias.detach()
    shift = (bias - middle).float().double() - bias  # the bias stays a float32 number
    bias += shift
    return shift.reshape(1, -1, 1, 1)


@torch.no_grad()
def separate(net, images):
    """Moves biases and changes pixels of a batch so that in training mode no value
    is near where the gradient jumps."""
    statistics = [b.clone() for b in net.buffers()]
    for _ in range(20):
        _, found = run(net, images, moving=True)
        n, y, x = (found.windows() < POOL_MARGIN).any(1).nonzero(as_tuple=True)
        if not len(n):
            break
        images[n, 0, 2 * y, 2 * x] += 1 / 16
        images.copy_(images.float())  # pixels stay float32 numbers
    else:
        sys.exit(f"pooling windows stay within {POOL_MARGIN}")
    for b, old in zip(net.buffers(), statistics):
        b.copy_(old)


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
        a = relu(self.bn1, x, r)
        s = r(self.shortcut(a)) if self.stride == 2 else x
        y = r(self.conv1(a))
        y = r(self.conv2(relu(self.bn2, y, r)))
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
        y = r(self.conv1(relu(self.bn1, x, r)))
        return r(self.conv2(relu(self.bn2, y, r)))


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
        x = r(pool(relu(self.init.bn, r(self.init.conv(r(x))), r)))
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


def train(job, data, kind, judge=None):
    """Trains a network and returns the results and the Switches of each step. The
    float64 run is the judge of the float32 one, which takes its biases and images."""
    torch.manual_seed(0)
    net = UNet(job["width"], job["mixed"] and kind == torch.float32)
    out = {"initial." + name: p.detach().clone() for name, p in net.named_parameters()}
    net.to(kind)
    for name, t in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            t.copy_(data[name])
    images, labels = data["images"].to(kind), data["labels"].long()
    biases = {name + ".bias": m.bias.detach() for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    taken = {"bias." + name: [] for name in biases}
    if judge:
        images.copy_(judge[0]["images"])

    def prepare(step):
        if judge:
            for name, bias in biases.items():
                bias.copy_(judge[0]["bias." + name][step])
        else:
            separate(net, images[step])
        for name, bias in biases.items():
            taken["bias." + name].append(bias.clone())

    prepare(0)
    net.eval()
    with torch.no_grad():
        out["output"] = torch.softmax(run(net, images[0])[0], 1)
    net.train()
    for name, p in net.named_parameters():
        p.requires_grad = name.split(".")[0] not in job["frozen"]
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=job["learning_rate"])
    losses, passed, slack = [], [], []
    for step, (x, y) in enumerate(zip(images, labels)):
        if step > 0:
            prepare(step)
        optimiser.zero_grad(set_to_none=True)
        z, found = run(net, x)
        passed.append(found)
        if judge:
            slack.append(found.slack(judge[1][step]))
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
        losses.append(loss.item())
        optimiser.step()
    for name, t in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            out[name] = t
    out.update({name: torch.stack(each) for name, each in taken.items()})
    out.update(images=images, loss=torch.tensor(losses, dtype=torch.float64), slack=torch.tensor(slack, dtype=torch.float64))
    return out, passed


def main(folder):
    torch.set_num_threads(1)
    for i, job in enumerate(json.load(open(f"{folder}/jobs.json"))):
        data = read(f"{folder}/{i}.in")
        judge = train(job, data, torch.float64)
        write(f"{folder}/{i}.{torch.float64}", judge[0])
        write(f"{folder}/{i}.{torch.float32}", train(job, data, torch.float32, judge)[0])


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
