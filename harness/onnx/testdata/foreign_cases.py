"""Writes small networks as converters and editors of graphs make them, one operator
or one way of storing weights each, at the operator sets 17 to 23, with ONNX
Runtime's answers. The files in foreign/cases were made by

    foreign_cases.py foreign/cases

with onnx and onnxruntime of today. index.json is as in foreign_exports.py.
"""
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

N = helper.make_node
rng = np.random.default_rng(1)


def floats(*shape):
    return rng.standard_normal(shape).astype("f4")


def ints(*v):
    return np.array(v, "i8")


CONV = N("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])  # four channels from one
W = {"w": floats(4, 1, 3, 3)}
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def cases():
    """Name, operator set, nodes from x to y, constants, and the shape of x where it is fixed."""
    for opset in range(17, 24):
        yield f"resize-sizes-{opset}", opset, [
            CONV, N("Shape", ["c"], ["s"], start=2, end=4), N("Mul", ["s", "two"], ["d"]), N("Shape", ["c"], ["nc"], end=2),
            N("Concat", ["nc", "d"], ["size"], axis=0), N("Resize", ["c", "", "", "size"], ["y"], mode="linear")], {**W, "two": ints(2)}
        yield f"reduce-softmax-{opset}", opset, [
            CONV, N("ReduceMean", ["c", "hw"], ["m"]) if opset > 17 else N("ReduceMean", ["c"], ["m"], axes=[2, 3]),
            N("Sub", ["c", "m"], ["d"]), N("Softmax", ["d"], ["y"], axis=1)], {**W, **({"hw": ints(2, 3)} if opset > 17 else {})}
    yield "resize-axes-sizes", 18, [CONV, N("Resize", ["c", "", "", "size"], ["y"], mode="nearest", axes=[2, 3])], {**W, "size": ints(16, 24)}, (1, 1, 8, 12)
    yield "resize-axes-scales", 19, [CONV, N("Resize", ["c", "", "scales"], ["y"], mode="linear", axes=[-1, -2], coordinate_transformation_mode="align_corners")], \
        {**W, "scales": np.array([3, 2], "f4")}, (1, 1, 8, 12)
    yield "resize-not-larger", 18, [CONV, N("Resize", ["c", "", "", "size"], ["y"], mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="not_larger")], \
        {**W, "size": ints(16, 24)}, (1, 1, 8, 12)
    yield "resize-antialias", 18, [CONV, N("Resize", ["c", "", "scales"], ["y"], mode="linear", antialias=1)], \
        {**W, "scales": np.array([1, 1, 0.5, 0.5], "f4")}, (1, 1, 8, 12)
    yield "pad-axes", 18, [CONV, N("Pad", ["c", "pads", "", "axes"], ["y"], mode="reflect")], {**W, "pads": ints(1, 2, 3, 0), "axes": ints(2, 3)}
    yield "pad-axes-negative", 21, [CONV, N("Pad", ["c", "pads", "value", "axes"], ["y"])], {**W, "pads": ints(2, 1, -1, 3), "axes": ints(-1, 2), "value": np.array(0.5, "f4")}
    yield "pad-wrap", 19, [CONV, N("Pad", ["c", "pads", "", "axes"], ["y"], mode="wrap")], {**W, "pads": ints(1, 2, 3, 0), "axes": ints(2, 3)}
    yield "split-outputs", 18, [CONV, N("Split", ["c"], ["a", "b"], axis=1, num_outputs=2), N("Mul", ["a", "b"], ["y"])], W
    yield "split-outputs-uneven", 18, [CONV, N("Split", ["c"], ["a", "b", "d"], axis=1, num_outputs=3), N("Concat", ["d", "a"], ["e"], axis=1),
                                       N("Concat", ["e", "b"], ["y"], axis=1)], {"w": floats(5, 1, 3, 3)}
    yield "groupnorm-21", 21, [CONV, N("GroupNormalization", ["c", "g", "b"], ["y"], num_groups=2, epsilon=1e-3)], {**W, "g": floats(4), "b": floats(4)}
    yield "gelu", 20, [CONV, N("Gelu", ["c"], ["y"])], W
    yield "gelu-tanh", 20, [CONV, N("Gelu", ["c"], ["y"], approximate="tanh")], W
    yield "hardswish", 22, [CONV, N("HardSwish", ["c"], ["y"])], W
    yield "mish", 22, [CONV, N("Mish", ["c"], ["y"])], W
    yield "clip-double-sided", 18, [CONV, N("Clip", ["c", "", "six"], ["r"]), N("Max", ["r", "low"], ["y"])], {**W, "six": np.array(0.6, "f4"), "low": np.array(-0.5, "f4")}
    yield "castlike", 19, [CONV, N("CastLike", ["half", "c"], ["h"]), N("Mul", ["c", "h"], ["y"])], {**W, "half": np.array(0.5, "f8")}
    yield "layernorm-channels", 17, [CONV, N("Transpose", ["c"], ["l"], perm=TO_LAST), N("LayerNormalization", ["l", "g", "b"], ["n"], epsilon=1e-3),
                                     N("Transpose", ["n"], ["y"], perm=TO_FIRST)], {**W, "g": floats(4), "b": floats(4)}
    yield "layernorm-no-bias", 17, [CONV, N("Transpose", ["c"], ["l"], perm=TO_LAST), N("LayerNormalization", ["l", "g"], ["n"], axis=3),
                                    N("Transpose", ["n"], ["y"], perm=TO_FIRST)], {**W, "g": floats(4)}
    yield "layernorm-image", 17, [CONV, N("LayerNormalization", ["c", "g", "b"], ["y"], axis=1)], {**W, "g": floats(4, 8, 12), "b": floats(4, 8, 12)}, (1, 1, 8, 12)
    yield "layernorm-width", 17, [CONV, N("LayerNormalization", ["c", "g"], ["y"], axis=-1)], {**W, "g": floats(12)}, (1, 1, 8, 12)
    yield "convnext-block", 18, [
        CONV, N("Conv", ["c", "dw"], ["e"], group=4, pads=[3, 3, 3, 3]), N("Transpose", ["e"], ["l"], perm=TO_LAST),
        N("LayerNormalization", ["l", "g", "b"], ["n"], epsilon=1e-6), N("MatMul", ["n", "up"], ["u"]), N("Add", ["u", "ub"], ["v"]),
        N("Div", ["v", "root"], ["q"]), N("Erf", ["q"], ["r"]), N("Add", ["r", "one"], ["t"]), N("Mul", ["v", "t"], ["z"]), N("Mul", ["z", "half"], ["a"]),
        N("MatMul", ["a", "down"], ["o"]), N("Mul", ["gamma", "o"], ["p"]), N("Transpose", ["p"], ["f"], perm=TO_FIRST), N("Add", ["c", "f"], ["y"])], \
        {**W, "dw": floats(4, 1, 7, 7), "g": floats(4), "b": floats(4), "up": floats(4, 16), "ub": floats(16), "down": floats(16, 4), "gamma": floats(4),
         "root": np.array(np.sqrt(2), "f4"), "one": np.array(1, "f4"), "half": np.array(0.5, "f4")}
    yield "matmul-pixels", 21, [CONV, N("Reshape", ["c", "flat"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
                                N("MatMul", ["t", "m"], ["o"]), N("Add", ["o", "b"], ["p"]), N("Transpose", ["p"], ["q"], perm=[0, 2, 1]),
                                N("Reshape", ["q", "image"], ["y"])], \
        {**W, "flat": ints(0, 0, -1), "m": floats(4, 3), "b": floats(3), "image": ints(0, 3, 8, 12)}, (1, 1, 8, 12)
    yield "nhwc-transposes", 18, [
        N("Transpose", ["x"], ["i"], perm=TO_FIRST), N("Conv", ["i", "w"], ["c"], pads=[1, 1, 1, 1]), N("Transpose", ["c"], ["l"], perm=TO_LAST),
        N("Add", ["l", "bias"], ["a"]), N("Relu", ["a"], ["r"]), N("Transpose", ["r"], ["f"], perm=TO_FIRST), N("Conv", ["f", "v"], ["d"]),
        N("Transpose", ["d"], ["e"], perm=TO_LAST), N("Concat", ["e", "r"], ["j"], axis=3), N("Softmax", ["j"], ["s"], axis=-1),
        N("Transpose", ["s"], ["y"], perm=TO_FIRST)], {**W, "bias": floats(4), "v": floats(2, 4, 1, 1)}, (1, 8, 12, 1)
    quantised = {"ws": np.abs(floats(4)) / 100 + 0.01, "wz": np.zeros(4, "i1")}
    yield "quantised-weights", 19, [N("QuantizeLinear", ["w", "ws", "wz"], ["q"], axis=0), N("DequantizeLinear", ["q", "ws", "wz"], ["v"], axis=0),
                                    N("Conv", ["x", "v"], ["y"])], {**W, **quantised}
    yield "quantised-vector", 21, [CONV, N("QuantizeLinear", ["g", "s"], ["q"], output_dtype=TensorProto.INT8), N("DequantizeLinear", ["q", "s"], ["h"]),
                                   N("InstanceNormalization", ["c", "h", "b"], ["y"])], {**W, "g": floats(4), "s": np.array(0.01, "f4"), "b": floats(4)}
    yield "bfloat16", 22, [N("Cast", ["h"], ["v"], to=TensorProto.FLOAT), N("Conv", ["x", "v"], ["y"])], \
        {"h": helper.make_tensor("h", TensorProto.BFLOAT16, [4, 1, 3, 3], floats(36))}
    yield "bfloat16-raw", 13, [N("Cast", ["h"], ["v"], to=TensorProto.FLOAT), N("Conv", ["x", "v"], ["y"])], \
        {"h": helper.make_tensor("h", TensorProto.BFLOAT16, [4, 1, 3, 3], (floats(36).view("u4") >> 16).astype("<u2").tobytes(), raw=True)}
    yield "external-several", 18, [N("Conv", ["x", "several.w"], ["c"]), N("Conv", ["c", "several.v", "several.b"], ["y"])], \
        {"several.w": floats(4, 1, 3, 3), "several.v": floats(3, 4, 2, 2), "several.b": floats(3)}


def main(out):
    index = []
    os.makedirs(out, exist_ok=True)
    for name, opset, nodes, constants, *rest in cases():
        shape = rest[0] if rest else (2, 1, 8, 12)
        last = shape[3] == 1  # [N,H,W,C]
        declared = ("n", "h", "w", 1) if last else shape if rest else ("n", shape[1], "h", "w")
        tensors = [c if isinstance(c, TensorProto) else numpy_helper.from_array(c, k) for k, c in constants.items()]
        graph = helper.make_graph(nodes, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, declared)],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k", "p", "q"])], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10)
        path = os.path.join(out, name + ".onnx")
        if name == "external-several":
            onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
        else:
            onnx.save(model, path)
        record = {"net": name, "exporter": "", "opset": opset, "file": name + ".onnx", "runs": []}
        index.append(record)
        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            x = floats(*shape)
            y = session.run(None, {"x": x})[0]
        except Exception as e:
            record["error"] = str(e)[:200]
            continue
        run = {"shape": [shape[0], 1, *(shape[1:3] if last else shape[2:])], "input": name + ".in", "output": name + ".out"}
        x.tofile(os.path.join(out, run["input"]))
        y.astype("<f4").tofile(os.path.join(out, run["output"]))
        record["runs"].append(run)
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump(index, f, indent=1)
        f.write("\n")


main(*sys.argv[1:])
