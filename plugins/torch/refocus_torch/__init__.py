"""A backend of refocus on PyTorch.

The plugin is the executable refocus-backend-torch, which refocus starts as a child
process (server.py) and talks to by the service in harness/backend/proto/backend.proto
(service.py). A session (session.py) is a network, read from ONNX by graph.py, with its
optimiser; dataset.py holds the images on the device, precision.py says in which
numbers a precision computes, device.py what can go wrong with a device, safetensors.py
reads and writes the files. backend_pb2.py and backend_pb2_grpc.py are generated.
"""

__version__ = "1.0.0"

# Enters the name under which results are stored; it changes whenever the bits of a
# result may change for a reason of this package's own.
NUMERICS = "torch-1"
