"""Files and states in the safetensors format.

A state's bytes must be the same whenever its values are, and its metadata are needed:
the library of this name guarantees the former and gives the latter only of files.
"""

import json
import math
import struct

import numpy as np

from .errors import Invalid

DTYPES = {"F64": "<f8", "F32": "<f4", "U8": "u1", "I64": "<i8"}
MAX_DIMENSIONS = 8
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}


def encode(tensors, metadata):
    """The bytes of arrays, given as (name, array), in this order."""
    header, offset, parts = {}, 0, []
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors:
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def decode(data):
    """The arrays of a buffer, by name, and the metadata. The arrays share its memory."""
    if len(data) < 8:
        raise Invalid(f"{len(data)} bytes are no safetensors file")
    (size,) = struct.unpack("<Q", bytes(data[:8]))
    if size > len(data) - 8:
        raise Invalid("the header is truncated, or this is no safetensors file")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
        metadata = header.pop("__metadata__", {})
        entries = [(name, e["dtype"], [int(n) for n in e["shape"]], *map(int, e["data_offsets"])) for name, e in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Invalid(f"the header cannot be read: {e}") from None
    arrays = {}
    for name, dtype, shape, begin, end in entries:
        if dtype not in DTYPES:
            raise Invalid(f'"{name}" is {dtype}, not one of {", ".join(DTYPES)}')
        kind = np.dtype(DTYPES[dtype])
        if len(shape) > MAX_DIMENSIONS or max(shape, default=0) > len(data):
            raise Invalid(f'"{name}" has {len(shape)} dimensions, the largest of {max(shape)}, in {len(data)} bytes')
        if min(shape, default=1) < 0 or begin < 0 or end - begin != math.prod(shape) * kind.itemsize:
            raise Invalid(f'"{name}" of shape {shape} does not fill its bytes from {begin} to {end}')
        if 8 + size + end > len(data):
            raise Invalid(f'"{name}" is truncated')
        try:
            arrays[name] = np.frombuffer(data, kind, math.prod(shape), 8 + size + begin).reshape(shape)
        except ValueError as e:
            raise Invalid(f'"{name}" of shape {shape}: {e}') from None
    return arrays, metadata
