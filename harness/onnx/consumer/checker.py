"""Checks ONNX models with the reference checker and shape inference. Protocol:
see consumer.go; the runs give no output."""
import json
import sys

import onnx

jobs = json.load(open(sys.argv[1]))
answer = {"version": onnx.__version__, "runs": []}
for run in jobs["runs"]:
    try:
        model = onnx.load(run["model"])
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        answer["runs"].append({"shape": []})
    except Exception as e:
        answer["runs"].append({"error": " ".join(str(e).split())})
json.dump(answer, open(sys.argv[2], "w"))
