"""Writes the official node tests of the installed onnx package as networks with
one image [N,C,H,W]: one input is the image, the others become constants. Inputs
of fewer dimensions to functions of every element get dimensions of size one
before them.

Usage: node_cases.py DIR OP…

Writes DIR/NUMBER.onnx with raw little-endian float32 files, and index.json:
{"version", "opset", "cases": [{"op", "name", "file", "shape", "input", "output",
"half"}]}. Tests without an image are counted in "others".
"""
import json
import os
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")

ELEMENTWISE = set("""Relu LeakyRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Tanh Softplus Softsign Mish Gelu Erf Exp Log
Sqrt Neg Abs Reciprocal Round Clip PRelu Add Sub Mul Div Max Min Sum Pow Identity Cast QuantizeLinear DequantizeLinear""".split())
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
    cases, others = [], {}
    for op, case in collect(set(ops)):
        graph = case.model.graph
        inputs, outputs = case.data_sets[0]
        found = False
        if all(isinstance(a, np.ndarray) or np.isscalar(a) for a in list(inputs) + list(outputs)):
            inputs, outputs = [np.asarray(a) for a in inputs], [np.asarray(a) for a in outputs]
            for i, image in enumerate(inputs):
                lift = op in ELEMENTWISE and 0 < image.ndim < 4
                if i > 0 and op not in SYMMETRIC:
                    break
                if image.dtype.type not in FLOATS or image.size == 0 or not (image.ndim == 4 or lift):
                    continue
                for k, answer in enumerate(outputs):
                    if answer.dtype.kind not in "fiu" or k >= len(graph.output):
                        continue
                    write(out, case, op, i, k, inputs, answer, lift, cases)
                    found = True
        if not found:
            others[op] = others.get(op, 0) + 1
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump({"version": onnx.__version__, "opset": onnx.defs.onnx_opset_version(), "cases": cases, "others": others}, f)


def write(out, case, op, i, k, inputs, answer, lift, cases):
    graph = case.model.graph
    names = [v.name for v in graph.input]
    image = inputs[i]

    def lifted(a):
        return a.reshape((1,) * (4 - a.ndim) + a.shape) if lift and a.ndim < 4 else a

    if lift:
        answer = lifted(answer) if answer.ndim else answer
    typ = helper.np_dtype_to_tensor_dtype if hasattr(helper, "np_dtype_to_tensor_dtype") else lambda d: onnx.mapping.NP_TYPE_TO_TENSOR_TYPE[d]
    x = lifted(image)
    constants = []
    for n, (name, a) in enumerate(zip(names, inputs)):
        if n != i and name:
            t = numpy_helper.from_array(a, name)
            declared = graph.input[n].type.tensor_type.elem_type
            if declared == TensorProto.BFLOAT16:
                return
            constants.append(t)
    g = helper.make_graph(list(graph.node), case.name, [helper.make_tensor_value_info(names[i], typ(x.dtype), x.shape)],
                          [helper.make_tensor_value_info(graph.output[k].name, graph.output[k].type.tensor_type.elem_type, answer.shape)],
                          initializer=constants + list(graph.initializer))
    opsets = [helper.make_opsetid(o.domain, max(o.version, 7)) for o in case.model.opset_import]  # what is older is the same at 7
    m = helper.make_model(g, opset_imports=opsets)
    m.ir_version = case.model.ir_version
    number = len(cases)
    with open(os.path.join(out, f"{number}.onnx"), "wb") as f:
        f.write(m.SerializeToString())
    raw(os.path.join(out, f"{number}.in"), x)
    raw(os.path.join(out, f"{number}.out"), answer)
    cases.append({"op": op, "name": case.name + (f", input {i}" if i else "") + (f", output {k}" if k else ""), "file": f"{number}.onnx",
                  "shape": x.shape, "input": f"{number}.in", "output": f"{number}.out", "half": image.dtype == np.float16})


main(sys.argv[1], sys.argv[2:])
