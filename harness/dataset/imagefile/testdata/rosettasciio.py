"""Prints what RosettaSciIO reads of each file: for every signal the shape, a
weighted sum of its pixels, and scales and units of the last two axes.

    python3 rosettasciio.py FILE...
"""
import importlib
import json
import logging
import sys
import warnings

import numpy as np

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
readers = {"dm3": "digitalmicrograph", "dm4": "digitalmicrograph", "ser": "tia", "tif": "tiff", "mrc": "mrc"}
for path in sys.argv[1:]:
    signals = []
    try:
        read = importlib.import_module("rsciio." + readers[path.rsplit(".", 1)[1]]).file_reader(path)
    except Exception:
        read = []  # what it cannot read is no reference
    for s in read:
        a = np.asarray(s["data"])
        if a.dtype.kind in "uif" and a.ndim >= 2:
            v = a.astype("f4").astype("f8").ravel() * (1 + np.arange(a.size) % 7)
            axes = s["axes"][-2:]
            signals.append({"shape": a.shape, "sum": v.sum(), "scale": [float(x.get("scale", 0)) for x in axes], "unit": [str(x.get("units")) for x in axes]})
    print(json.dumps(signals))
