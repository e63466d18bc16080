"""Tests of what the conformance suite does not see: run with
`python3 -m unittest discover plugins/torch/tests`, with the package installed."""

import hashlib
import io
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from refocus_torch import device, log, precision, safetensors, service
from refocus_torch.dataset import Dataset, Plan
from refocus_torch.errors import Cancelled, Invalid, Unsupported
from refocus_torch.session import Session, needed


def network(batch=0, attributes=None, softmax=True):
    """A convolution, a normalisation and, with softmax, a softmax of two classes."""
    rng = np.random.default_rng(1)
    tensors = {
        "a.weight": rng.normal(size=(2, 1, 3, 3)), "a.bias": rng.normal(size=2),
        "b.weight": rng.normal(1, 0.1, size=2), "b.bias": rng.normal(size=2),
        "b.mean": np.zeros(2), "b.var": np.ones(2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "a.weight", "a.bias"], ["a"], name="a", kernel_shape=[3, 3], pads=[1, 1, 1, 1], **(attributes or {})),
        helper.make_node("BatchNormalization", ["a", "b.weight", "b.bias", "b.mean", "b.var"], ["b" if softmax else "out"], name="b"),
        helper.make_node("Softmax", ["b"], ["out"], name="out", axis=1),
    ][: 3 if softmax else 2]
    value = lambda name, c: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "N", c, "H", "W"])
    graph = helper.make_graph(nodes, "small", [value("image", 1)], [value("out", 2)],
                              [numpy_helper.from_array(t.astype(np.float32), n) for n, t in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def session(precision="float32", **kw):
    return Session(network(**kw), precision, "cross-entropy-on-probabilities", "cpu", (0.9, 0.999, 1e-8))


def go_on():
    """A tick of a caller who waits."""


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def save(self, images, labels):
        data = safetensors.encode([("images", images), ("labels", labels)], None)
        path = os.path.join(self.folder.name, hashlib.md5(data).hexdigest())
        with open(path, "wb") as f:
            f.write(data)
        return path, hashlib.sha256(data).hexdigest()

    def images(self, n=5, size=6):
        rng = np.random.default_rng(2)
        return rng.normal(size=(n, 2, size, size)).astype(np.float32), rng.integers(0, 2, (n, size, size)).astype(np.uint8)

    def test_symmetries(self):
        images, labels = self.images()
        d = Dataset(*self.save(images, labels), 2, torch.device("cpu"), go_on)
        other = Dataset(*self.save(images[::-1].copy(), labels[::-1].copy()), 2, torch.device("cpu"), go_on)
        rows = [("ab"[i % 2], (3 * i) % 5, i % 8) for i in range(16)]
        x, y = Plan({"a": d, "b": other}, rows).load(torch.device("cpu"), torch.float64, torch.contiguous_format)
        for k, (name, i, op) in enumerate(rows):
            i = i if name == "a" else 4 - i
            turned = lambda a: np.rot90(a.swapaxes(-1, -2) if op & 4 else a, op & 3, (-2, -1))
            np.testing.assert_array_equal(x[k].numpy(), turned(images[i]))
            np.testing.assert_array_equal(y[k].numpy(), turned(labels[i]))

    def test_refusals(self):
        images, labels = self.images()
        path, digest = self.save(images, labels)
        load = lambda p=path, d=digest, k=2: Dataset(p, d, k, torch.device("cpu"), go_on)
        with self.assertRaisesRegex(Invalid, "it has changed or is another file"):
            load(d="0" * 64)
        with self.assertRaisesRegex(Invalid, "sample 0: label 1 at row"):
            load(k=1)
        images[3, 1, 2, 4] = np.nan
        with self.assertRaisesRegex(Invalid, "sample 3: value nan at row 2, column 4"):
            load(*self.save(images, labels))
        with self.assertRaisesRegex(Invalid, "images"):
            load(*self.save(images.astype(np.float64), labels))

        def gone():
            raise Cancelled

        with self.assertRaises(Cancelled):
            Dataset(path, digest, 2, torch.device("cpu"), gone)

    def test_safetensors(self):
        tensors = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array(2.5), "z": np.zeros((0, 4), np.uint8)}
        data = safetensors.encode(tensors.items(), {"step": "3"})
        self.assertEqual(data, safetensors.encode(tensors.items(), {"step": "3"}))
        got, metadata = safetensors.decode(data)
        self.assertEqual(metadata, {"step": "3"})
        for name, t in tensors.items():
            self.assertEqual(got[name].dtype, t.dtype)
            np.testing.assert_array_equal(got[name], t)
        for end in range(len(data) - 1):  # the empty tensor takes no bytes
            with self.assertRaises(Invalid):
                safetensors.decode(data[:end])
        for shape in [[0, 1 << 70], [1 << 40], [1] * 1000, [1 << 32, 1 << 32, 0], [-1, -1]]:
            text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
            with self.assertRaises(Invalid, msg=str(shape)[:50]):
                safetensors.decode(struct.pack("<Q", len(text)) + text)


class Precision(unittest.TestCase):
    def test_rounding(self):
        rng = np.random.default_rng(3)
        x = (rng.normal(size=4096) * 2.0 ** rng.integers(-14, 14, 4096)).astype(np.float32)
        for name, bits in (("tf32", 10), ("bfloat16", 7), ("mixed", 10)):
            got = precision.ROUND[name](torch.from_numpy(x)).numpy().astype(np.float64)
            m, e = np.frexp(x.astype(np.float64))  # 0.5 ≤ |m| < 1, so bits+1 of it count
            want = np.ldexp(np.rint(m * 2 ** (bits + 1)), e - bits - 1)
            small = np.abs(x) < 2.0**-14 if name == "mixed" else np.zeros_like(x, bool)  # float16's subnormal numbers
            np.testing.assert_array_equal(got[~small], want[~small], err_msg=name)

    def test_gradient(self):
        """Of operands that rounding does not change, a rounded convolution and its
        gradients are PyTorch's own: sums of products that float32 holds exactly."""
        rng = np.random.default_rng(4)
        some = lambda *shape: torch.tensor(rng.integers(-3, 4, shape), dtype=torch.float32)
        for geometry in (([1, 1], [1, 1], [1, 1], 1), ([2, 2], [0, 1], [2, 1], 2)):
            x, w, b = (t.requires_grad_() for t in (some(2, 4, 9, 8), some(6, 4 // geometry[3], 3, 3), some(6)))
            want = torch.nn.functional.conv2d(x, w, b, *geometry)
            dy = some(*want.shape)
            got = precision.RoundedConv.apply(x, w, b, geometry, precision.round_tf32)
            self.assertTrue(torch.equal(got, want))
            for p, q in zip(torch.autograd.grad(got, (x, w, b), dy), torch.autograd.grad(want, (x, w, b), dy)):
                self.assertTrue(torch.equal(p, q))


class Sessions(unittest.TestCase):
    def batch(self, s, n=2):
        rng = np.random.default_rng(5)
        d = Dataset.__new__(Dataset)
        d.count, d.channels, d.height, d.width, d._maps = 4, 1, 16, 16, None
        d.images = torch.from_numpy(rng.normal(size=(4, 1, 16, 16)).astype(np.float32))
        d.labels = torch.from_numpy(rng.integers(0, 2, (4, 16, 16)).astype(np.uint8))
        s.datasets["set"] = d
        return [("set", i, 0) for i in range(n)]

    def test_refusals(self):
        with self.assertRaisesRegex(Unsupported, r'node "a" \(Conv\): auto_pad SAME_UPPER'):
            session(attributes={"auto_pad": "SAME_UPPER"})
        with self.assertRaisesRegex(Unsupported, r'node "a" \(Conv\): attribute "slant"'):
            session(attributes={"slant": 2})
        with self.assertRaisesRegex(Invalid, "no ONNX file"):
            Session(b"no network at all", "float32", "cross-entropy", "cpu", (0.9, 0.999, 1e-8))

    def test_logits_are_predicted_only(self):
        s, whole = session(softmax=False), session()
        x = np.random.default_rng(6).normal(size=(3, 1, 16, 16)).astype(np.float32)
        z = torch.from_numpy(s.predict(x, go_on))
        self.assertTrue(torch.equal(torch.softmax(z, 1), torch.from_numpy(whole.predict(x, go_on))))
        batch = self.batch(s)
        for ask in (lambda: s.train([batch], 1e-3, [], go_on, lambda *a: None), lambda: s.gradients(batch, [], go_on)):
            with self.assertRaisesRegex(Invalid, "does not end in a Softmax"):
                ask()

    def test_overflow_is_skipped(self):
        s = session("mixed")
        batch = self.batch(s)
        before, steps = s.state(), []
        s.scale = 1e30
        s.train([batch], 1e-3, [], go_on, lambda *a: steps.append(a))
        self.assertEqual(steps[0][2:], (True, 1e30))
        self.assertEqual(s.scale, 5e29)
        s.scale = 65536.0
        self.assertEqual(s.state(), before)
        s.good = 1999
        s.train([batch], 1e-3, [], go_on, lambda *a: steps.append(a))
        self.assertEqual((s.scale, s.good, s.step), (131072.0, 0, 1))

    def test_cancelled_in_the_backward_pass(self):
        s, calls = session(), [0]
        batch = self.batch(s)

        def counting():
            calls[0] += 1

        s.train([batch], 1e-3, [], counting, lambda *a: None)
        last, calls[0] = calls[0], 0  # the last look is in the backward pass

        def gone():
            calls[0] += 1
            if calls[0] == last:
                raise Cancelled

        before = s.state()
        with self.assertRaises(Cancelled):
            s.train([batch], 1e-3, [], gone, lambda *a: None)
        self.assertGreater(last, 1 + len(s.graph.nodes))
        self.assertEqual(s.state(), before)

    def test_out_of_memory(self):
        s = session()
        batch = self.batch(s)
        full = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        with mock.patch.object(s.graph, "run", side_effect=full):
            with self.assertRaisesRegex(Invalid, r"a training step of 2 images of 16×16 in float32 needs at least \d+\.\d\d GiB.*smaller batches"):
                s.train([batch], 1e-3, [], go_on, lambda *a: None)
        # Two classes of two images, three values each as large: twice, for gradients.
        self.assertGreaterEqual(needed(s.graph, s.math, 2, 16, 16, True), 2 * 3 * 2 * 2 * 16 * 16 * 4)
        s.train([batch], 1e-3, [], go_on, lambda *a: None)  # it goes on

    def test_out_of_memory_on_a_gpu(self):
        """The error says what is needed and what is free, and takes nothing for lost."""
        full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        s = session()
        s.device = torch.device("cuda:1")
        free = mock.patch.object(torch.cuda, "mem_get_info", return_value=(3 << 29, 80 << 30))
        with free, mock.patch.object(torch.cuda, "empty_cache") as emptied, mock.patch("refocus_torch.session.end_if_lost") as ended:
            with self.assertRaisesRegex(Invalid, r"^a training step of 16 images of 512×512 in float32 needs at least 0\.\d\d GiB; "
                                        r"1\.50 GiB of cuda:1's 80\.00 GiB are free: take smaller batches or another device$"):
                s.guarded("a training step", 16, 512, 512, True, mock.Mock(side_effect=full))
        emptied.assert_called_once()
        ended.assert_not_called()
        # Also where no pass is computed: opening, a state.
        worker = service.Worker(1, "cuda:1")
        context = mock.Mock(add_callback=lambda f: True)
        with free, mock.patch.object(torch.cuda, "empty_cache"), mock.patch.object(service, "end_if_lost") as ended:
            with self.assertRaisesRegex(Invalid, r"^the request needs more memory than there is; 1\.50 GiB of cuda:1's"):
                worker.start(context, mock.Mock(side_effect=full)).result()
        ended.assert_not_called()

    def test_state_of_another_precision(self):
        a, b = session("mixed"), session("float64")
        b.train([self.batch(b)], 1e-3, [], go_on, lambda *x: None)
        a.set_state(b.state())
        self.assertEqual((a.step, a.scale, a.good), (1, 65536.0, 0))
        for name in a.graph.values:
            np.testing.assert_array_equal(a._get(a.weights[name]), b._get(b.weights[name]).astype(np.float32))


class Device(unittest.TestCase):
    def test_lost(self):
        lost = torch.device("cuda:0")
        with mock.patch.object(device, "alive", return_value=False), mock.patch.object(os, "_exit") as ended:
            with self.assertLogs("device", "ERROR"):
                device.end_if_lost(lost, RuntimeError("CUDA error: unspecified launch failure"))
        ended.assert_called_once_with(69)
        with mock.patch.object(device, "alive", return_value=True), mock.patch.object(os, "_exit") as ended:
            device.end_if_lost(lost, RuntimeError("a shape"))
        ended.assert_not_called()

    def test_lost_anywhere(self):
        """Whatever a session was asked for when its device went, the process ends."""
        worker = service.Worker(1, "cuda:0")
        ended, gone = RuntimeError("it ended"), RuntimeError("CUDA error: unspecified launch failure")
        context = mock.Mock(add_callback=lambda f: True)

        def state(tick):
            raise gone

        with mock.patch.object(service, "end_if_lost", side_effect=ended) as end:
            with self.assertRaises(RuntimeError) as caught:
                worker.start(context, state).result()
            self.assertIs(caught.exception, ended)
            end.assert_called_once_with(torch.device("cuda:0"), gone)
            with self.assertRaises(Invalid):
                worker.start(context, mock.Mock(side_effect=Invalid("a shape"))).result()
            end.assert_called_once()

    def test_driver(self):
        nvidia = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.2"
        opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n"
        with mock.patch.object(torch.version, "hip", None):
            for text, want in ((nvidia, "550.54.15"), (opened, "570.86.10"), ("something else", "")):
                with mock.patch("builtins.open", mock.mock_open(read_data=text)):
                    self.assertEqual(device.driver(), want)
        with mock.patch("builtins.open", side_effect=OSError):
            self.assertEqual(device.driver(), "")

    def test_statuses(self):
        for error, code in ((Unsupported("x"), "UNIMPLEMENTED"), (Cancelled(), "CANCELLED"), (Invalid("x"), "INVALID_ARGUMENT")):
            self.assertEqual(service.status(error)[0].name, code)
        with self.assertLogs("service", "ERROR"):
            self.assertEqual(service.status(ZeroDivisionError("x"))[0].name, "UNKNOWN")


class Process(unittest.TestCase):
    def test_log_lines(self):
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        handler.setFormatter(log.Lines())
        logger = logging.Logger("here")
        logger.addHandler(handler)
        logger.warning("%d of them", 3, extra={"pairs": {"device": "cuda:0"}})
        line = json.loads(out.getvalue())
        self.assertRegex(line.pop("@timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertEqual(line, {"@level": "warn", "@message": "3 of them", "@module": "here", "device": "cuda:0"})

    def test_started_by_a_person(self):
        environment = {k: v for k, v in os.environ.items() if k != "REFOCUS_BACKEND_PLUGIN"}
        p = subprocess.run([sys.executable, "-c", "from refocus_torch.server import main; main()"], env=environment, capture_output=True, text=True)
        self.assertEqual(p.returncode, 1)
        self.assertIn("does nothing by itself", p.stderr)


if __name__ == "__main__":
    unittest.main()
