"""Exports U-Nets as people write them in PyTorch, with the network's own
answers. Every model is exported at two of the operator sets that the importer
accepts, all of them together at every one.

Usage: torch_export.py DIR

Writes DIR/MODEL-OPSET.onnx and index.json, a list of
{"file", "shapes", "inputs", "outputs"}: raw little-endian float32 files.
"""
import json
import os
import sys
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F

warnings.filterwarnings("ignore")
torch.set_num_threads(1)


class Unit(nn.Module):
    """Pre-activation residual unit of the study's encoder."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(i, o, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        a = F.relu(self.bn1(x))
        s = self.shortcut(a) if self.shortcut else x
        return self.conv2(F.relu(self.bn2(self.conv1(a)))) + s


class Study(nn.Module):
    """The study's network at width w. up says how the decoder upsamples."""

    def __init__(self, w=4, up="scale"):
        super().__init__()
        self.up = up
        self.stem = nn.Sequential(nn.Conv2d(1, w, 7, 1, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU())
        self.down = nn.ModuleList(nn.Sequential(Unit(w << i, w << i + 1, 2), Unit(w << i + 1, w << i + 1, 1)) for i in range(3))
        chans = [(8 * w + 4 * w, 4 * w), (4 * w + 2 * w, 2 * w), (2 * w + w, w), (w, w // 2)]
        self.ups = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, 3, 1, 1, bias=False),
                          nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, 1, 1, bias=False)) for i, o in chans)
        self.head = nn.Conv2d(w // 2, 2, 1)

    def forward(self, image):
        x = F.max_pool2d(self.stem(image), 2)
        skips = [x]
        for d in self.down:
            x = d(x)
            skips.append(x)
        skips = [image] + skips[:3]
        for i, u in enumerate(self.ups):
            skip = skips[3 - i]
            if self.up == "size":
                x = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            elif self.up == "computed":
                x = F.interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2), mode="bilinear", align_corners=False)
            else:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            if i < 3:
                x = torch.cat([x, skip], 1)
            x = u(x)
        return F.softmax(self.head(x), dim=1)


class Double(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
                         nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))


class Classic(nn.Module):
    """The U-Net of countless repositories: double convolutions, up-convolution
    or bilinear upsampling, F.pad to the skip's size, logits out."""

    def __init__(self, w=4, up="transpose", act=None):
        super().__init__()
        self.inc, self.d1, self.d2 = Double(1, w), Double(w, 2 * w), Double(2 * w, 4 * w)
        if up == "transpose":
            self.u1, self.u2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)
        else:
            self.u1 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(4 * w, 2 * w, 1))
            self.u2 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(2 * w, w, 1))
        self.c1, self.c2 = Double(4 * w, 2 * w), Double(2 * w, w)
        self.drop = nn.Dropout2d(0.1)
        self.out = nn.Conv2d(w, 2, 1)

    def join(self, x, skip):
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        return torch.cat([skip, F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], 1)

    def forward(self, image):
        a = self.inc(image)
        b = self.d1(F.max_pool2d(a, 2))
        c = self.drop(self.d2(F.max_pool2d(b, 2)))
        x = self.c1(self.join(self.u1(c), b))
        return self.out(self.c2(self.join(self.u2(x), a)))


class Odd(nn.Module):
    """Attributes that U-Nets rarely have."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 6, (3, 5), stride=1, padding=(2, 4), dilation=2)
        self.b = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.avg = nn.AvgPool2d(2)
        self.up = nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1, output_padding=1)
        self.out = nn.Conv2d(12, 2, 1)

    def forward(self, image):
        x = F.leaky_relu(self.a(image), 0.1)
        y = torch.sigmoid(self.b(x))
        z = F.interpolate(self.up(self.avg(self.pool(x))), scale_factor=2, mode="nearest")
        return F.softmax(self.out(torch.cat([y * x, z], 1)), dim=1)


MODELS = {
    "study": (lambda: Study(), {}),
    "study-fixed": (lambda: Study(), {"fixed": True, "as_inputs": True}),
    "study-unfused": (lambda: Study(), {"unfused": True}),
    "study-size": (lambda: Study(up="size"), {}),
    "study-size-fixed": (lambda: Study(up="size"), {"fixed": True}),
    "study-computed": (lambda: Study(up="computed"), {}),
    "classic-transpose": (lambda: Classic(), {}),
    "classic-bilinear": (lambda: Classic(up="bilinear"), {}),
    "odd": (lambda: Odd(), {}),
}


def main(out):
    index = []
    for number, (name, (make, opt)) in enumerate(MODELS.items()):
        torch.manual_seed(7)
        net = make()
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.uniform_(m.bias, -0.5, 0.5)
                nn.init.uniform_(m.running_mean, -0.1, 0.1)
                nn.init.uniform_(m.running_var, 0.2, 1.2)
        net.eval()
        shapes = [(1, 1, 32, 48)] if opt.get("fixed") else [(1, 1, 32, 48), (3, 1, 64, 16)]
        images = [torch.randn(s) for s in shapes]
        with torch.no_grad():
            answers = [net(x) for x in images]
        inputs, outputs = [], []
        for i, (x, y) in enumerate(zip(images, answers)):
            for kind, t, files in (("in", x, inputs), ("out", y, outputs)):
                files.append(f"{name}.{kind}{i}")
                t.numpy().astype("<f4").tofile(os.path.join(out, files[-1]))
        for opset in sorted({11 + (number + k) % 7 for k in (0, 3)}):
            kw = {}
            if not opt.get("fixed"):
                kw["dynamic_axes"] = {"image": {0: "n", 2: "h", 3: "w"}, "out": {0: "n", 2: "h", 3: "w"}}
            if opt.get("as_inputs"):
                kw["keep_initializers_as_inputs"] = True
            if opt.get("unfused"):
                kw.update(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
            file = f"{name}-{opset}.onnx"
            torch.onnx.export(net, images[0], os.path.join(out, file), input_names=["image"], output_names=["out"],
                              opset_version=opset, **kw)
            index.append({"file": file, "shapes": shapes, "inputs": inputs, "outputs": outputs})
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump(index, f)


main(sys.argv[1])
