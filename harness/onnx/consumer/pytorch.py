"""Runs the PyTorch weights of a BioImage Model Zoo package: a model is the path of a
state dict beside network.py, whose class Network takes it. Protocol: see consumer.go."""
import importlib.util
import inspect
import json
import os
import sys
import time

import numpy as np
import torch

torch.set_num_threads(1)
sys.dont_write_bytecode = True
jobs = json.load(open(sys.argv[1]))
answer = {"version": torch.__version__, "runs": []}
safe = {"weights_only": True} if "weights_only" in inspect.signature(torch.load).parameters else {}
nets = {}
for run in jobs["runs"]:
    try:
        path = run["model"]
        if path not in nets:
            spec = importlib.util.spec_from_file_location("network", os.path.join(os.path.dirname(path), "network.py"))
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            net = module.Network()
            net.load_state_dict(torch.load(path, map_location="cpu", **safe), strict=True)
            nets[path] = net.eval()
        x = torch.from_numpy(np.fromfile(run["input"], "<f4").reshape(run["shape"]))
        start = time.process_time()
        with torch.no_grad():
            y = nets[path](x).numpy()
        seconds = time.process_time() - start
        y.astype("<f4").tofile(run["output"])
        answer["runs"].append({"shape": list(y.shape), "seconds": seconds})
    except Exception as e:
        answer["runs"].append({"error": " ".join(str(e).split())})
json.dump(answer, open(sys.argv[2], "w"))
