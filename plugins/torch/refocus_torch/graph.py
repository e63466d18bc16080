"""A network from ONNX, checked and made into calls of PyTorch's functions."""

import math

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from .errors import Invalid, Unsupported

# Operators with the attributes that are heeded and the least and greatest number of
# inputs. A node with anything else is refused.
OPERATORS = {
    "Conv": ({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}, 2, 3),
    "BatchNormalization": ({"epsilon", "momentum", "training_mode"}, 5, 5),
    "Relu": (set(), 1, 1),
    "MaxPool": ({"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"}, 1, 1),
    "Resize": (
        {"coordinate_transformation_mode", "mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"},
        3,
        3,
    ),
    "Concat": ({"axis"}, 1, math.inf),
    "Add": (set(), 2, 2),
    "Softmax": ({"axis"}, 1, 1),
}

NOTES = {
    "Conv": "two-dimensional",
    "MaxPool": "two-dimensional, floor",
    "Resize": "nearest, by whole factors",
    "Concat": "of channels",
    "Add": "of equal shapes",
    "Softmax": "over channels",
}


def group(name):
    """The group that a parameter is frozen with: its name up to the first dot."""
    return name.split(".")[0]


class Node:
    """One operator: its names, and a window's geometry where it has one."""

    def __init__(self, proto):
        self.name, self.op = proto.name, proto.op_type
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        a = self.attributes
        self.pads = list(a.get("pads", [0, 0, 0, 0]))
        self.strides = list(a.get("strides", [1, 1]))
        self.dilations = list(a.get("dilations", [1, 1]))
        self.kernel = list(a.get("kernel_shape", []))
        self.groups = a.get("group", 1)

    def text(self, name, default):
        v = self.attributes.get(name, default)
        return v.decode() if isinstance(v, bytes) else v

    def where(self):
        return f'node "{self.name}" ({self.op})'

    def refuse(self, why):
        raise Unsupported(f"{self.where()}: {why}: not supported by this backend")

    def window(self, height, width, kernel):
        """The size of a convolution's or a pooling's output."""
        size = []
        for i, n in enumerate((height, width)):
            n += self.pads[i] + self.pads[i + 2] - self.dilations[i] * (kernel[i] - 1) - 1
            if n < 0:
                raise Invalid(f"{self.where()}: its window is larger than the image of {height}×{width}")
            size.append(n // self.strides[i] + 1)
        return size


class Graph:
    """A network: nodes in order, and the names of its tensors by their role.

    The inputs 1 and 2 of Conv and BatchNormalization are parameters, 3 and 4 of
    BatchNormalization statistics; all other tensors are constants.
    """

    def __init__(self, data):
        try:
            graph = onnx.load_from_string(data).graph
        except Exception as e:  # protobuf's errors have no common base
            raise Invalid(f"the network is no ONNX file: {e}") from None
        self.nodes = [Node(n) for n in graph.node]
        self.tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        values = [v for v in graph.input if v.name not in self.tensors]
        if len(values) != 1 or len(graph.output) != 1 or not self.nodes:
            raise Invalid(f"the network has {len(values)} inputs, {len(graph.output)} outputs and {len(self.nodes)} nodes")
        self.input, self.output = values[0].name, graph.output[0].name
        shape = [d.dim_value for d in values[0].type.tensor_type.shape.dim]  # 0: any
        if len(shape) != 4 or shape[1] < 1:
            raise Invalid(f"the network's input has shape {shape}, not [N,C,H,W] with a fixed number of channels")
        self.batch, self.channels = shape[0], shape[1]  # batch: images at once, 0 for any
        self.size = shape[2:]

        roles = {}
        for n in self.nodes:
            self._check(n)
            for i, name in enumerate(n.inputs):
                if n.op == "BatchNormalization" and i >= 3:
                    roles[name] = "statistic"
                elif n.op in ("BatchNormalization", "Conv") and i >= 1:
                    roles[name] = "parameter"
        self.parameters = [t for t in self.tensors if roles.get(t) == "parameter"]
        self.statistics = [t for t in self.tensors if roles.get(t) == "statistic"]
        self.values = [t for t in self.tensors if t in roles]  # both, in the file's order
        self.groups = sorted({group(p) for p in self.parameters})
        # What each loss is applied to as logits. Without a Softmax at its end a network
        # only predicts.
        last, self.scored = self.nodes[-1], {}
        if last.op == "Softmax" and last.outputs[0] == self.output:
            self.scored = {"cross-entropy-on-probabilities": self.output, "cross-entropy": last.inputs[0]}
        self._shapes = {}

    def _check(self, n):
        if n.op not in OPERATORS:
            n.refuse("this operator")
        attributes, least, most = OPERATORS[n.op]
        for name in sorted(n.attributes):
            if name not in attributes:
                n.refuse(f'attribute "{name}"')
        if not least <= len(n.inputs) <= most:
            n.refuse(f"{len(n.inputs)} inputs")
        if len(n.outputs) != 1:
            n.refuse(f"{len(n.outputs)} outputs")
        if n.text("auto_pad", "NOTSET") != "NOTSET":
            n.refuse(f'auto_pad {n.text("auto_pad", "")}')
        if n.op in ("Conv", "MaxPool"):
            if n.op == "Conv":
                weight = self.tensors.get(n.inputs[1])
                if weight is None or weight.ndim != 4:
                    n.refuse("a weight that is no two-dimensional kernel of the network's")
                n.kernel = n.kernel or list(weight.shape[2:])
            if (len(n.kernel), len(n.strides), len(n.dilations), len(n.pads)) != (2, 2, 2, 4) or min(n.pads) < 0:
                n.refuse(f"kernel {n.kernel}, strides {n.strides}, dilations {n.dilations}, pads {n.pads}")
            if n.attributes.get("ceil_mode") or n.attributes.get("storage_order"):
                n.refuse("ceil_mode or storage_order")
        if n.op == "BatchNormalization" and n.attributes.get("training_mode"):
            n.refuse("training_mode")
        if n.op == "Softmax" and n.attributes.get("axis", -1) not in (1, -3):
            n.refuse(f'axis {n.attributes.get("axis", -1)}')
        if n.op == "Concat" and n.attributes.get("axis") not in (1, -3):
            n.refuse(f'axis {n.attributes.get("axis")}')
        if n.op == "Resize":
            mode = n.text("mode", "nearest"), n.text("coordinate_transformation_mode", "half_pixel"), n.text("nearest_mode", "round_prefer_floor")
            if mode != ("nearest", "asymmetric", "floor"):
                n.refuse(f"mode {mode}")
            scales = self.tensors.get(n.inputs[2])
            if scales is None or scales.shape != (4,) or list(scales[:2]) != [1, 1] or any(s < 1 or s != int(s) for s in scales[2:]):
                n.refuse(f"scales {None if scales is None else scales.tolist()}")
            n.scales = [int(s) for s in scales[2:]]

    def shapes(self, count, channels, height, width):
        """The shape of every value for images [N,C,H,W]; an error names the node."""
        key = count, channels, height, width
        if key in self._shapes:
            return self._shapes[key]
        if channels != self.channels:
            raise Invalid(f"images of {channels} channels, the network takes {self.channels}")
        if min(key) < 1 or self.batch and count != self.batch or any(w and g != w for g, w in zip((height, width), self.size)):
            raise Invalid(f"{count} images of {height}×{width}: the network takes {self.batch or 'any number'} of {self.size} (0: any)")
        shapes = {name: list(t.shape) for name, t in self.tensors.items()}
        shapes[self.input] = list(key)
        for n in self.nodes:
            x = shapes[n.inputs[0]]
            y = list(x)
            if n.op == "Conv":
                w = shapes[n.inputs[1]]
                if w[1] * n.groups != x[1]:
                    raise Invalid(f"{n.where()}: weight {w} for {x[1]} channels in {n.groups} groups")
                y = [x[0], w[0], *n.window(x[2], x[3], n.kernel)]
            elif n.op == "MaxPool":
                y = [x[0], x[1], *n.window(x[2], x[3], n.kernel)]
            elif n.op == "Resize":
                y = [x[0], x[1], x[2] * n.scales[0], x[3] * n.scales[1]]
            elif n.op == "Concat":
                for other in (shapes[i] for i in n.inputs[1:]):
                    if other[:1] + other[2:] != x[:1] + x[2:]:
                        raise Invalid(f"{n.where()}: shapes {x} and {other} do not fit for images of {height}×{width}")
                y[1] = sum(shapes[i][1] for i in n.inputs)
            elif n.op == "Add" and shapes[n.inputs[1]] != x:
                raise Invalid(f"{n.where()}: shapes {x} and {shapes[n.inputs[1]]} do not fit for images of {height}×{width}")
            shapes[n.outputs[0]] = y
        if len(self._shapes) > 64:
            self._shapes.clear()
        self._shapes[key] = shapes
        return shapes

    def output_shape(self, height, width):
        """The output's shape for the smallest batch of such images."""
        return self.shapes(self.batch or 1, self.channels, height, width)[self.output]

    def check_normal(self, count, height, width):
        """Refuses a training batch with a single value per channel."""
        shapes = self.shapes(count, self.channels, height, width)
        for n in self.nodes:
            if n.op == "BatchNormalization":
                x = shapes[n.inputs[0]]
                if x[0] * x[2] * x[3] < 2:
                    raise Invalid(f"{n.where()}: one value per channel has no variance; take more or larger images")

    def run(self, x, weights, conv, statistics=None, tick=None, keep=False, last=None):
        """All values that are still needed at the end, by name: every one with keep,
        else the output and the value called last.

        statistics are buffers that a pass in training mode moves; without them the
        pass is in inference mode. conv computes convolutions. tick is called before
        each node and in the backward pass, and may raise.
        """
        values, uses = {self.input: x}, {}
        if not keep:
            for n in self.nodes:
                for name in n.inputs:
                    uses[name] = uses.get(name, 0) + 1
        for n in self.nodes:
            if tick:
                tick()
            a = values[n.inputs[0]]
            if n.op == "Conv":
                a, padding = padded(a, n.pads, 0.0)
                bias = weights[n.inputs[2]] if len(n.inputs) > 2 else None
                y = conv(a, weights[n.inputs[1]], bias, n.strides, padding, n.dilations, n.groups)
                if tick and y.requires_grad:
                    y.register_hook(lambda _: tick())
            elif n.op == "BatchNormalization":
                scale, shift = weights[n.inputs[1]], weights[n.inputs[2]]
                epsilon, momentum = n.attributes.get("epsilon", 1e-5), n.attributes.get("momentum", 0.9)
                held = weights if statistics is None else statistics
                y = F.batch_norm(a, held[n.inputs[3]], held[n.inputs[4]], scale, shift, statistics is not None, 1 - momentum, epsilon)
            elif n.op == "Relu":
                y = F.relu(a)
            elif n.op == "MaxPool":
                a, padding = padded(a, n.pads, -math.inf)
                y = F.max_pool2d(a, n.kernel, n.strides, padding, n.dilations)
            elif n.op == "Resize":
                y = F.interpolate(a, scale_factor=tuple(map(float, n.scales)), mode="nearest")
            elif n.op == "Concat":
                y = torch.cat([values[i] for i in n.inputs], 1)
            elif n.op == "Add":
                y = a + values[n.inputs[1]]
            else:
                y = torch.softmax(a.float() if a.dtype in (torch.float16, torch.bfloat16) else a, 1)
            values[n.outputs[0]] = y
            for name in n.inputs if not keep else ():
                uses[name] -= 1
                if not uses[name] and name not in (last, self.output):
                    values.pop(name, None)
        return values


def padded(a, pads, value):
    """An image padded as far as PyTorch's own padding, the same on both sides and not
    more than half a kernel, does not do it, and that padding."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and value == 0:
        return a, (top, left)
    if not any(pads):
        return a, (0, 0)
    return F.pad(a, (left, right, top, bottom), value=value), (0, 0)
