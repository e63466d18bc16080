"""Runs ONNX models with OpenCV's DNN module. Protocol: see consumer.go. Before
4.8 OpenCV reads the sum of two images as a scaling where it cannot infer that
they have one size, and then has no batches: the images of one are run one after
the other."""
import json
import os
import sys
import time

os.environ["OPENCV_LOG_LEVEL"] = "SILENT"  # before the import
import cv2
import numpy as np

cv2.setNumThreads(1)
batches = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 8)
jobs = json.load(open(sys.argv[1]))
answer = {"version": cv2.__version__, "runs": []}
nets = {}
for run in jobs["runs"]:
    try:
        if run["model"] not in nets:
            nets[run["model"]] = cv2.dnn.readNetFromONNX(run["model"])
        net = nets[run["model"]]
        x = np.fromfile(run["input"], "<f4").reshape(run["shape"])
        start = time.process_time()
        parts = []
        for part in [x] if batches else np.split(x, len(x)):
            net.setInput(part)
            parts.append(net.forward().copy())
        y = np.concatenate(parts)
        seconds = time.process_time() - start
        y.astype("<f4").tofile(run["output"])
        answer["runs"].append({"shape": list(y.shape), "seconds": seconds})
    except Exception as e:
        answer["runs"].append({"error": " ".join(str(e).split())})
json.dump(answer, open(sys.argv[2], "w"))
