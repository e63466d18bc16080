"""Prints tensors of every element type, raw and typed, as the onnx package
writes them, with the values that it reads from them: a JSON list of
{"name", "proto" (base64), "shape", "values"}. Values are small enough to be
exact in float64."""
import base64
import json

import numpy as np
from onnx import TensorProto as T, helper, numpy_helper

out = []


def add(name, t, values):
    out.append({"name": name, "proto": base64.b64encode(t.SerializeToString()).decode(),
                "shape": list(t.dims), "values": [float(v) for v in np.asarray(values).ravel()]})


INTS = {T.UINT8: (0, 1, 200, 255), T.INT8: (-128, -1, 0, 127), T.UINT16: (0, 1, 40000, 65535), T.INT16: (-32768, -1, 0, 32767),
        T.INT32: (-2**31, -1, 0, 2**31 - 1), T.INT64: (-2**53, -1, 0, 2**53), T.UINT32: (0, 1, 2**31, 2**32 - 1),
        T.UINT64: (0, 1, 2**40, 2**53), T.BOOL: (0, 1, 1, 0)}
NP = {T.UINT8: "u1", T.INT8: "i1", T.UINT16: "<u2", T.INT16: "<i2", T.INT32: "<i4", T.INT64: "<i8", T.UINT32: "<u4",
      T.UINT64: "<u8", T.BOOL: "?", T.FLOAT: "<f4", T.DOUBLE: "<f8", T.FLOAT16: "<f2"}
FLOATS = (0.0, -1.5, 3.140625, 65504.0, 6e-8, -0.0)

for typ, values in INTS.items():
    a = np.array(values, NP[typ]).reshape(2, 2)
    name = T.DataType.Name(typ)
    t = helper.make_tensor("t", typ, a.shape, [int(v) for v in a.ravel()])
    add(name, t, numpy_helper.to_array(t))
    t = helper.make_tensor("t", typ, a.shape, a.tobytes(), raw=True)
    add(name + " raw", t, numpy_helper.to_array(t))
for typ in (T.FLOAT, T.DOUBLE, T.FLOAT16):
    a = np.array(FLOATS, NP[typ]).reshape(3, 2)
    name = T.DataType.Name(typ)
    t = helper.make_tensor("t", typ, a.shape, a.ravel().tolist())
    add(name, t, numpy_helper.to_array(t))
    t = helper.make_tensor("t", typ, a.shape, a.tobytes(), raw=True)
    add(name + " raw", t, numpy_helper.to_array(t))
# bfloat16: values that it holds exactly; readers differ in what they return
a = np.array((0.0, -1.5, 3.140625, 2.0**100), "<f4")
bits = (a.view("<u4") >> 16).astype("<u2")
t = helper.make_tensor("t", T.BFLOAT16, a.shape, bits.tobytes(), raw=True)
add("BFLOAT16 raw", t, a)
t = T(name="t", data_type=T.BFLOAT16, dims=a.shape, int32_data=bits.tolist())
add("BFLOAT16", t, a)
# a scalar and an empty tensor
add("scalar", numpy_helper.from_array(np.array(2.5, "<f4"), "t"), [2.5])
add("empty", numpy_helper.from_array(np.zeros((0, 2), "<i8"), "t"), [])
print(json.dumps(out))
