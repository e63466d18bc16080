"""Runs ONNX models with ONNX Runtime. Protocol: see consumer.go."""
import json
import sys
import time

import numpy as np
import onnxruntime as ort

ort.set_default_logger_severity(3)
jobs = json.load(open(sys.argv[1]))
answer = {"version": ort.__version__, "runs": []}
options = ort.SessionOptions()
options.intra_op_num_threads = 1
sessions = {}
for run in jobs["runs"]:
    try:
        if run["model"] not in sessions:
            sessions[run["model"]] = ort.InferenceSession(run["model"], options, providers=["CPUExecutionProvider"])
        session = sessions[run["model"]]
        x = np.fromfile(run["input"], "<f4").reshape(run["shape"])
        start = time.process_time()
        y = session.run(None, {session.get_inputs()[0].name: x})[0]
        seconds = time.process_time() - start
        y.astype("<f4").tofile(run["output"])
        answer["runs"].append({"shape": list(y.shape), "seconds": seconds})
    except Exception as e:
        answer["runs"].append({"error": " ".join(str(e).split())})
json.dump(answer, open(sys.argv[2], "w"))
