"""Prints what RosettaSciIO reads of each file: for every signal of images the shape,
a weighted sum of its pixels, and scales and units of the last two axes. Before that it
writes files of its own into a folder, and prints their paths on the first line.

    python3 rosettasciio.py FOLDER < PATHS
"""
import importlib
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
readers = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".ser": "tia", ".tif": "tiff", ".tiff": "tiff", ".mrc": "mrc",
    ".emd": "emd", ".hspy": "hspy", ".hdf5": "hspy", ".nxs": "nexus", ".prz": "pantarhei",
}
out = Path(sys.argv[1])
written = []
rng = np.random.default_rng(12)
for extension, dtypes in {
    ".tif": "u1 u2 i2 f4", ".hspy": "u1 i2 u4 f4 f8", ".emd": "u1 i2 f4", ".nxs": "u1 i2 f4", ".prz": "u2 f4",
}.items():
    for dtype in dtypes.split():
        for images in 1, 6:
            shape = (images, 21, 17)[images == 1:]
            a = rng.integers(0, 120, shape).astype(dtype)
            axes = [
                {"size": n, "index_in_array": i, "name": "zyx"[i - len(shape)], "scale": [1.0, 0.05, 0.02][i - len(shape)],
                 "offset": 0.0, "units": ["", "nm", "nm"][i - len(shape)], "navigate": i < len(shape) - 2, "is_binned": False,
                 "_type": "UniformDataAxis"}
                for i, n in enumerate(shape)
            ]
            signal = {
                "data": a, "axes": axes, "original_metadata": {}, "learning_results": {}, "models": {}, "tmp_parameters": {}, "package_info": "", 
                "metadata": {"General": {"title": "written"}, "Signal": {"signal_type": ""}}, "attributes": {"_lazy": False, "ragged": False},
            }
            path = str(out / f"{dtype}-{images}{extension}")
            try:
                importlib.import_module("rsciio." + readers[extension]).file_writer(path, signal)
            except Exception as e:
                sys.exit(f"{path}: {e!r}")
            written.append(path)
print(json.dumps(written))
for path in written + sys.stdin.read().splitlines():
    signals = []
    try:
        read = importlib.import_module("rsciio." + readers[Path(path).suffix]).file_reader(path)
    except Exception:
        read = []  # what it cannot read is no reference
    for s in read:
        a = np.asarray(s["data"])
        if a.dtype.kind in "uifb" and a.ndim >= 2:
            v = a.astype("f4").astype("f8").ravel()
            v = np.where(np.isfinite(v), v, 0) * (1 + np.arange(a.size) % 7)
            axes = s["axes"][-2:]
            signals.append({"shape": a.shape, "sum": v.sum(), "scale": [float(x.get("scale", 0)) for x in axes], "unit": [str(x.get("units")) for x in axes]})
    print(json.dumps(signals))
