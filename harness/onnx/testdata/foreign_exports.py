"""Exports segmentation networks as people have them by the exporters of PyTorch,
with ONNX Runtime's answers. Weights are random; normalisations have seen a few
random images.

Usage: foreign_exports.py DIR FAMILY

FAMILY is plain, monai, smp (segmentation_models_pytorch) or torchvision. Writes
DIR/*.onnx with raw little-endian float32 files, and index.json: a list of
{"net", "exporter", "opset", "file", "runs": [{"shape", "input", "output"}]}, or
with an "error" where the exporter, or ONNX Runtime, refuses.

FAMILY small has graphs of all these kinds, as narrow as they can be, by the default
exporter alone. The files beside this script in foreign/torch were made by

    foreign_exports.py foreign/torch small

They are as the exporter wrote them, but for the notes that it attaches to every node.

FAMILY quantised has plain networks as ONNX Runtime's quantiser makes them, with the
answers of ONNX Runtime as it optimises them, and with every operator as it is written.
"""
import contextlib
import io
import json
import logging
import os
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn as nn
import torch.nn.functional as F

warnings.filterwarnings("ignore")
logging.disable(logging.ERROR)
onnxruntime.set_default_logger_severity(4)
torch.set_num_threads(1)


def double(i, o, norm=nn.BatchNorm2d, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), norm(o), act(),
                         nn.Conv2d(o, o, 3, padding=1, bias=False), norm(o), act())


class Residual(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.body, self.shortcut = double(i, o), nn.Conv2d(i, o, 1)

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


class UNet(nn.Module):
    def __init__(self, block=double, up="transpose", head="logits", attention=False, pad=False, classes=2, width=8, depth=4):
        super().__init__()
        self.up, self.head, self.attention, self.pad = up, head, attention, pad
        c = [width << i for i in range(depth)]
        self.down = nn.ModuleList(block(i, o) for i, o in zip([1] + c, c))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(c[i + 1], c[i], 2, 2) if up == "transpose" else nn.Conv2d(c[i + 1], c[i], 1) for i in range(depth - 1))
        self.dec = nn.ModuleList(block(2 * c[i], c[i]) for i in range(depth - 1))
        self.out = nn.Conv2d(width, classes, 1)
        if attention:
            self.g = nn.ModuleList(nn.Conv2d(k, k, 1) for k in c[:-1])
            self.x = nn.ModuleList(nn.Conv2d(k, k, 1) for k in c[:-1])
            self.psi = nn.ModuleList(nn.Sequential(nn.Conv2d(k, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid()) for k in c[:-1])

    def forward(self, x):
        skips = []
        for i, d in enumerate(self.down):
            x = d(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for i in reversed(range(len(self.ups))):
            skip = skips[i]
            if self.up == "bilinear":
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            elif self.up == "nearest":
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            elif self.up == "size":
                x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = self.ups[i](x)
            if self.attention:
                skip = skip * self.psi[i](F.relu(self.g[i](x) + self.x[i](skip)))
            if self.pad:
                dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
                x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = self.dec[i](torch.cat([skip, x], 1))
        x = self.out(x)
        return {"softmax": lambda: F.softmax(x, 1), "logsoftmax": lambda: F.log_softmax(x, 1), "sigmoid": lambda: torch.sigmoid(x),
                "logits": lambda: x}[self.head]()


class NNUNet(nn.Module):
    """Strided convolutions, instance normalisation, leaky ReLU."""

    def __init__(self, width=8, depth=4):
        super().__init__()
        c = [width << i for i in range(depth)]

        def block(i, o, stride):
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.InstanceNorm2d(o, affine=True), nn.LeakyReLU(0.01),
                                 nn.Conv2d(o, o, 3, 1, 1), nn.InstanceNorm2d(o, affine=True), nn.LeakyReLU(0.01))

        self.down = nn.ModuleList(block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip([1] + c, c)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(c[i + 1], c[i], 2, 2, bias=False) for i in range(depth - 1))
        self.dec = nn.ModuleList(block(2 * c[i], c[i], 1) for i in range(depth - 1))
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x):
        skips = []
        for d in self.down:
            x = d(x)
            skips.append(x)
        for i in reversed(range(len(self.up))):
            x = self.dec[i](torch.cat([self.up[i](x), skips[i]], 1))
        return self.out(x)


class ASPP(nn.Module):
    """A head as DeepLab's: dilated convolutions and the mean of the image side by
    side, and the size of the image again."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(),
                                  nn.Conv2d(width, width, 3, 2, 1, groups=width), nn.ReLU6())
        self.rates = nn.ModuleList(nn.Conv2d(width, width, 3 if r > 1 else 1, padding=r if r > 1 else 0, dilation=r) for r in (1, 2, 4))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU())
        self.out = nn.Conv2d(4 * width, 2, 1)

    def forward(self, x):
        y = self.stem(x)
        pooled = F.interpolate(self.pool(y), size=y.shape[-2:], mode="bilinear", align_corners=False)
        y = self.out(torch.cat([rate(y) for rate in self.rates] + [pooled], 1))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


class First(nn.Module):
    """The first of several outputs."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        y = self.net(x)
        y = y["out"] if isinstance(y, dict) else y
        return y[0] if isinstance(y, (list, tuple)) else y


def plain():
    def act(a):
        return lambda i, o: double(i, o, act=a)
    yield "transpose", 1, lambda: UNet()
    yield "bilinear", 1, lambda: UNet(up="bilinear", head="softmax")
    yield "nearest", 1, lambda: UNet(up="nearest", head="sigmoid", classes=1)
    yield "size", 1, lambda: UNet(up="size", head="logsoftmax")
    yield "pad", 1, lambda: UNet(pad=True)
    yield "residual", 1, lambda: UNet(block=Residual)
    yield "attention", 1, lambda: UNet(attention=True, up="nearest")
    yield "elu", 1, lambda: UNet(block=act(nn.ELU))
    yield "gelu, group norm", 1, lambda: UNet(block=lambda i, o: double(i, o, norm=lambda c: nn.GroupNorm(4, c), act=nn.GELU))
    yield "mish", 1, lambda: UNet(block=act(nn.Mish))
    yield "hardswish", 1, lambda: UNet(block=act(nn.Hardswish))
    yield "nnU-Net", 1, NNUNet


def monai():
    import monai.networks.nets as M
    yield "UNet", 1, lambda: M.UNet(2, 1, 2, (8, 16, 32, 64), (2, 2, 2), num_res_units=2)
    yield "UNet, batch norm", 1, lambda: M.UNet(2, 1, 2, (8, 16, 32, 64), (2, 2, 2), num_res_units=0, norm="batch", act="relu")
    yield "BasicUNet", 1, lambda: M.BasicUNet(2, 1, 2, features=(8, 8, 16, 32, 64, 8))
    yield "AttentionUnet", 1, lambda: M.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2))
    yield "DynUNet", 1, lambda: M.DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64])
    yield "DynUNet, residual", 1, lambda: M.DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[8, 16, 32, 64], res_block=True)
    yield "SegResNet", 1, lambda: M.SegResNet(2, 8, 1, 2)
    yield "UNet++", 1, lambda: First(M.BasicUNetPlusPlus(2, 1, 2, features=(8, 8, 16, 32, 64, 8)))
    yield "VNet", 1, lambda: M.VNet(2, 1, 2)


def smp():
    import segmentation_models_pytorch as S

    def net(f, encoder, channels=1, **kw):
        return lambda: f(encoder, encoder_weights=None, in_channels=channels, classes=2, **kw)
    yield "Unet resnet18", 1, net(S.Unet, "resnet18")
    yield "Unet resnet34", 3, net(S.Unet, "resnet34", 3)
    yield "Unet efficientnet-b0", 1, net(S.Unet, "efficientnet-b0")
    yield "Unet mobilenet_v2", 1, net(S.Unet, "mobilenet_v2", activation="sigmoid")
    yield "Unet mobilenetv3", 1, net(S.Unet, "tu-mobilenetv3_small_100")
    yield "Unet scSE", 1, net(S.Unet, "resnet18", decoder_attention_type="scse")
    yield "Unet++", 1, net(S.UnetPlusPlus, "resnet18")
    yield "FPN", 1, net(S.FPN, "resnet18")
    yield "DeepLabV3+", 1, net(S.DeepLabV3Plus, "resnet18")
    yield "Linknet", 1, net(S.Linknet, "resnet18")
    yield "MAnet", 1, net(S.MAnet, "resnet18")
    yield "PSPNet", 1, net(S.PSPNet, "resnet18")


def torchvision():
    import torchvision.models.segmentation as T

    def net(f):
        return lambda: First(f(weights=None, weights_backbone=None, num_classes=2))
    yield "FCN resnet50", 3, net(T.fcn_resnet50)
    yield "DeepLabV3 resnet50", 3, net(T.deeplabv3_resnet50)
    yield "DeepLabV3 mobilenet", 3, net(T.deeplabv3_mobilenet_v3_large)
    yield "LR-ASPP", 3, net(T.lraspp_mobilenet_v3_large)


def small():
    import monai.networks.nets as M
    import segmentation_models_pytorch as S
    import timm.models.efficientnet as E
    import timm.models.mobilenetv3 as V

    def act(a):
        return lambda i, o: double(i, o, act=a)
    yield "transpose", 1, lambda: UNet(width=2, depth=3)
    yield "bilinear", 1, lambda: UNet(width=2, depth=3, up="bilinear", head="softmax")
    yield "nearest", 1, lambda: UNet(width=2, depth=3, up="nearest", head="sigmoid", classes=1)
    yield "size", 1, lambda: UNet(width=2, depth=3, up="size", head="logsoftmax")
    yield "pad", 1, lambda: UNet(width=2, depth=3, pad=True)
    yield "pad-odd", 1, lambda: UNet(width=2, depth=3, pad=True)
    yield "residual", 1, lambda: UNet(width=2, depth=3, block=Residual)
    yield "attention", 1, lambda: UNet(width=2, depth=3, attention=True, up="nearest")
    yield "elu", 1, lambda: UNet(width=2, depth=3, block=act(nn.ELU))
    yield "prelu", 1, lambda: UNet(width=2, depth=3, block=act(nn.PReLU))
    yield "mish", 1, lambda: UNet(width=2, depth=3, block=act(nn.Mish))
    yield "hardswish", 1, lambda: UNet(width=2, depth=3, block=act(nn.Hardswish))
    yield "gelu-groupnorm", 1, lambda: UNet(width=2, depth=3, block=lambda i, o: double(i, o, norm=lambda c: nn.GroupNorm(2, c), act=nn.GELU))
    yield "nnunet", 1, lambda: NNUNet(width=2, depth=3)
    yield "aspp", 1, lambda: ASPP(4)
    yield "monai-unet", 1, lambda: M.UNet(2, 1, 2, (2, 4, 8), (2, 2), num_res_units=2)
    yield "monai-basicunet", 1, lambda: M.BasicUNet(2, 1, 2, features=(2, 2, 4, 4, 8, 2))
    yield "monai-attentionunet", 1, lambda: M.AttentionUnet(2, 1, 2, (2, 4, 8), (2, 2))
    yield "monai-dynunet", 1, lambda: M.DynUNet(2, 1, 2, [3] * 3, [1, 2, 2], [2] * 2, filters=[2, 4, 8])
    yield "monai-segresnet", 1, lambda: M.SegResNet(2, 4, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1), norm=("GROUP", {"num_groups": 2}))
    yield "monai-unetplusplus", 1, lambda: First(M.BasicUNetPlusPlus(2, 1, 2, features=(2, 2, 4, 4, 8, 2)))

    # encoders of timm, narrower than any that has a name
    def narrow(module, name, make):
        def entry(pretrained=False, **kw):
            return make(**kw)
        entry.__name__, entry.__module__ = name, module.__name__
        timm.models.register_model(entry)
    import timm
    narrow(E, "narrow_efficientnet", lambda **kw: E._gen_efficientnet("efficientnet_b0", channel_multiplier=0.1, depth_multiplier=0.1, **kw))
    narrow(E, "narrow_mobilenetv2", lambda **kw: E._gen_mobilenet_v2("mobilenetv2_100", channel_multiplier=0.1, depth_multiplier=0.1, **kw))
    narrow(V, "narrow_mobilenetv3", lambda **kw: V._gen_mobilenet_v3("mobilenetv3_small_100", 0.1, depth_multiplier=0.1, **kw))
    resnet = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8), "stem_type": "deep", "stem_width": 4}

    def net(f, encoder, **kw):
        return lambda: f(encoder, encoder_weights=None, in_channels=1, classes=2, **kw)
    for name, encoder, kw in ("resnet", "tu-resnet18", resnet), ("efficientnet", "tu-narrow_efficientnet", {}), \
            ("mobilenetv2", "tu-narrow_mobilenetv2", {}), ("mobilenetv3", "tu-narrow_mobilenetv3", {}):
        yield "smp-unet-" + name, 1, net(S.Unet, encoder, decoder_channels=(8, 4, 4, 4, 4), **kw)
    yield "smp-unet-scse", 1, net(S.Unet, "tu-resnet18", decoder_channels=(16, 16, 16, 16, 16), decoder_attention_type="scse", **resnet)
    yield "smp-unetplusplus", 1, net(S.UnetPlusPlus, "tu-resnet18", decoder_channels=(8, 4, 4, 4, 4), **resnet)
    yield "smp-fpn", 1, net(S.FPN, "tu-resnet18", decoder_pyramid_channels=8, decoder_segmentation_channels=32, **resnet)
    yield "smp-deeplabv3plus", 1, net(S.DeepLabV3Plus, "tu-resnet18", decoder_channels=8, decoder_atrous_rates=(1, 2, 3), **resnet)
    yield "smp-linknet", 1, net(S.Linknet, "tu-resnet18", **resnet)


AXES = {"image": {0: "n", 2: "h", 3: "w"}, "out": {0: "n", 2: "h", 3: "w"}}
NAMES = {"input_names": ["image"], "output_names": ["out"]}
DYNAMIC = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
EXPORTERS = {
    "default": (False, {}),
    "one file, dynamic": (True, {"dynamic_shapes": (DYNAMIC,), "external_data": False, **NAMES}),
    "legacy, dynamic": (True, {"dynamo": False, "dynamic_axes": AXES, **NAMES}),
    "legacy 17, dynamic": (True, {"dynamo": False, "opset_version": 17, "dynamic_axes": AXES, **NAMES}),
    "legacy 17, fixed": (False, {"dynamo": False, "opset_version": 17, **NAMES}),
}


SIZES = {
    "smp-fpn": 64,  # at 32 its last stage is one pixel, which its GroupNorm refuses
    "pad-odd": 30,  # whose halves are odd, so that it does pad
}


ACTIVATIONS = ["elu", "prelu", "mish", "hardswish"]  # differ from another network in nothing that has a size


def strip(path):
    """Takes out the notes of every node, which say where it comes from."""
    model = onnx.load(path, load_external_data=False)
    for part in [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def quantised(out):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"image": np.random.default_rng(100 + i).standard_normal((1, 1, 64, 64)).astype("f4")} for i in range(4)])

        def get_next(self):
            return next(self.left, None)

    nets = {"transpose": UNet, "bilinear": lambda: UNet(up="bilinear", head="softmax"), "residual": lambda: UNet(block=Residual),
            "attention": lambda: UNet(attention=True, up="nearest"), "nnU-Net": NNUNet}
    settings = {
        "uint8": {"activation_type": QuantType.QUInt8},
        "uint8, per channel": {"activation_type": QuantType.QUInt8, "per_channel": True},
        "int8, per channel": {"activation_type": QuantType.QInt8, "per_channel": True, "extra_options": {"ActivationSymmetric": True}},
        "uint16": {"activation_type": QuantType.QUInt16},
    }
    levels = {"as written": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, "optimised": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL}
    index = []
    for i, (name, make) in enumerate(nets.items()):
        net = warmed(make, 1)
        source = os.path.join(out, f"{i}.onnx")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.onnx.export(net, (torch.randn(1, 1, 64, 64),), source, dynamo=False, opset_version=21, **NAMES)
        for k, (setting, kw) in enumerate(settings.items()):
            stem = f"{i}-{k}"
            path = os.path.join(out, stem + ".onnx")
            quantize_static(source, path, Images(), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8, **kw)
            x = np.random.default_rng(0).standard_normal((1, 1, 64, 64)).astype("<f4")
            x.tofile(os.path.join(out, stem + ".in"))
            for level, optimisation in levels.items():
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                options.graph_optimization_level = optimisation
                y = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"image": x})[0]
                run = {"shape": list(x.shape), "input": stem + ".in", "output": f"{stem} {level}"}
                y.astype("<f4").tofile(os.path.join(out, run["output"]))
                index.append({"net": f"{name}, {setting}", "exporter": level, "opset": 21, "file": stem + ".onnx", "runs": [run]})
    return index


def warmed(make, channels):
    """A network whose normalisations have seen a few random images."""
    torch.manual_seed(1)
    net = make().train()
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(4, channels, 64, 64))
    return net.eval()


def main(out, family):
    index = quantised(out) if family == "quantised" else exported(out, family)
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump(index, f, indent=1)
        f.write("\n")


def exported(out, family):
    index = []
    families = {"plain": plain, "monai": monai, "smp": smp, "torchvision": torchvision, "small": small}
    exporters = dict(list(EXPORTERS.items())[:2]) if family == "small" else EXPORTERS
    for number, (name, channels, make) in enumerate(families[family]()):
        size, wide = (SIZES.get(name, 32), 64) if family == "small" else (64, 96)
        net = warmed(make, channels)
        for k, (exporter, (dynamic, kw)) in enumerate(exporters.items()):
            stem = f"{name}-{'dynamic' if dynamic else 'fixed'}" if family == "small" else f"{number}-{k}"
            record = {"net": name, "exporter": exporter, "file": stem + ".onnx", "runs": []}
            index.append(record)
            path = os.path.join(out, record["file"])
            if family == "small" and dynamic and (name in SIZES or name in ACTIVATIONS or sum(p.numel() for p in net.parameters()) > 6000):
                index.pop()  # it is for the one size, or once is enough
                continue
            first = (2, channels, size, wide) if dynamic else (1, channels, size, size)
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    torch.onnx.export(net, (torch.randn(first),), path, verbose=False, **kw)
                if family == "small":
                    strip(path)
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                for i, shape in enumerate([first] * (family != "small" or not dynamic) + [(1, channels, 2 * size, size)] * dynamic):
                    x = np.random.default_rng(i).standard_normal(shape).astype("<f4")
                    y = session.run(None, {session.get_inputs()[0].name: x})[0]
                    run = {"shape": shape, "input": f"{stem}-{i}.in", "output": f"{stem}-{i}.out"}
                    x.tofile(os.path.join(out, run["input"]))
                    y.astype("<f4").tofile(os.path.join(out, run["output"]))
                    record["runs"].append(run)
                model = onnx.load(path, load_external_data=False)
                record["opset"] = [o.version for o in model.opset_import if o.domain == ""][0]
            except Exception as e:
                record["error"] = str(e)[:200]
    return index


main(*sys.argv[1:])
