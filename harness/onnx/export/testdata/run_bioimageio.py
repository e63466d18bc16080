"""Tests descriptions and packages of the BioImage Model Zoo with bioimageio.core and
prints the outcome for every kind of weights."""
import sys

from bioimageio.core import test_model
from bioimageio.spec import load_model_description

for path in sys.argv[1:]:
    model = load_model_description(path, format_version="discover")
    version = ".".join(str(model.format_version).split(".")[:2])
    for weights in ("onnx", "pytorch_state_dict"):
        summary = test_model(model, weight_format=weights)
        print(version, weights, summary.status)
        for detail in summary.details:
            for error in detail.errors:
                print("   ", error.loc, error.msg)
