"""Writes the official node tests of the installed onnx package as networks with
one image [N,C,H,W]: one input is the image, the others become constants. An input
of fewer dimensions is an image with dimensions of size one before them (a matrix to
multiply, after them), which a Squeeze takes away. The image comes negated, for a
network to do something where the operator does nothing.

Usage: node_cases.py DIR OP…

Writes DIR/NUMBER.onnx with raw little-endian float32 files, and index.json:
{"version", "opset", "cases": [{"op", "name", "file", "shape", "input", "output",
"half"}]}. Tests without an image are left out.
"""
import json
import os
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")

for name in ("float", "int", "bool", "object"):  # old cases use NumPy's old names
    if name not in np.__dict__:
        setattr(np, name, __builtins__.__dict__[name])
# operators of which every input may be an image
SYMMETRIC = set("Add Sub Mul Div Max Min Sum Concat".split())
FLOATS = (np.float32, np.float16)


def collect(ops):
    """The cases of some operators: (operator, case). The body of an operator that
    is a function counts for the operator."""
    from onnx.backend.test.case.node import collect_testcases
    try:
        cases = collect_testcases(None)
    except TypeError:
        cases = collect_testcases()
    of = {}
    for c in cases:
        if c.model is not None and len(c.model.graph.node) == 1:
            of[c.name] = c.model.graph.node[0].op_type
    for c in cases:
        op = of.get(c.name.split("_expanded")[0])
        if op in ops and c.kind == "node" and c.data_sets:
            yield op, c


def raw(path, a):
    np.ascontiguousarray(a, "<f4").tofile(path)


def main(out, ops):
    cases = []
    for op, case in collect(set(ops)):
        graph = case.model.graph
        inputs, outputs = ([numpy_helper.to_array(a) if isinstance(a, TensorProto) else a for a in list_] for list_ in case.data_sets[0])
        if all(isinstance(a, np.ndarray) or np.isscalar(a) for a in list(inputs) + list(outputs)):
            inputs, outputs = [np.asarray(a) for a in inputs], [np.asarray(a) for a in outputs]
            for i, image in enumerate(inputs):
                if i > 0 and op not in SYMMETRIC:
                    break
                if image.dtype.type not in FLOATS or image.size == 0 or not 0 < image.ndim <= 4:
                    continue
                for k, answer in enumerate(outputs):
                    if answer.dtype.kind not in "fiu" or k >= len(graph.output):
                        continue
                    write(out, case, op, i, k, inputs, answer, cases)
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump({"version": onnx.__version__, "opset": onnx.defs.onnx_opset_version(), "cases": cases}, f)


def write(out, case, op, i, k, inputs, answer, cases):
    graph = case.model.graph
    names = [v.name for v in graph.input]
    image = inputs[i]

    declared = graph.output[k].type.tensor_type.elem_type
    if declared not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8):
        return
    typ = helper.np_dtype_to_tensor_dtype if hasattr(helper, "np_dtype_to_tensor_dtype") else lambda d: onnx.mapping.NP_TYPE_TO_TENSOR_TYPE[d]
    # what is older than 7 is the same at 7
    opsets = [helper.make_opsetid(o.domain, max(o.version, 7)) for o in case.model.opset_import]
    version = [o.version for o in opsets if o.domain == ""][0]
    nodes, constants, entry = list(graph.node), [], names[i]
    ones, after = (1,) * (4 - image.ndim), op in ("Gemm", "MatMul") and image.ndim == 2
    x = -image.reshape(image.shape + ones if after else ones + image.shape)
    if image.ndim < 4:
        entry, axes = names[i] + " as an image", [2, 3] if after else list(range(4 - image.ndim))
        if version < 13:
            nodes.insert(0, helper.make_node("Squeeze", [entry], [names[i]], axes=axes))
        else:
            constants.append(numpy_helper.from_array(np.array(axes, np.int64), "the axes of the squeeze"))
            nodes.insert(0, helper.make_node("Squeeze", [entry, "the axes of the squeeze"], [names[i]]))
    nodes.insert(0, helper.make_node("Neg", [entry + ", negated"], [entry]))
    for n, (name, a) in enumerate(zip(names, inputs)):
        if n != i and name:
            t = numpy_helper.from_array(a, name)
            if graph.input[n].type.tensor_type.elem_type == TensorProto.BFLOAT16:
                return
            constants.append(t)
    g = helper.make_graph(nodes, case.name, [helper.make_tensor_value_info(entry + ", negated", typ(x.dtype), x.shape)],
                          [helper.make_tensor_value_info(graph.output[k].name, declared, answer.shape)],
                          initializer=constants + list(graph.initializer))
    m = helper.make_model(g, opset_imports=opsets)
    m.ir_version = case.model.ir_version
    number = len(cases)
    with open(os.path.join(out, f"{number}.onnx"), "wb") as f:
        f.write(m.SerializeToString())
    raw(os.path.join(out, f"{number}.in"), x)
    raw(os.path.join(out, f"{number}.out"), answer)
    cases.append({"op": op, "name": case.name + (f", input {i}" if i else "") + (f", output {k}" if k else ""), "file": f"{number}.onnx",
                  "shape": x.shape, "input": f"{number}.in", "output": f"{number}.out", "half": np.float16 in (image.dtype, answer.dtype)})


main(sys.argv[1], sys.argv[2:])
