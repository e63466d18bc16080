"""The service: requests become calls of sessions, errors become statuses."""

import concurrent.futures
import functools
import itertools
import logging
import math
import queue
import threading

import grpc
import numpy as np
import torch

from . import NUMERICS, backend_pb2 as pb, backend_pb2_grpc
from .device import cores, devices, end_if_lost, memory_error, out_of_memory
from .errors import Cancelled, Closed, Invalid, Unsupported
from .graph import NOTES, OPERATORS, Graph
from .precision import LACKING, PRECISIONS, Arithmetic
from .session import Session, needed

LOSSES = ["cross-entropy-on-probabilities", "cross-entropy"]
MOST_THREADS = 1024

log = logging.getLogger("service")


def tensor(array):
    array = np.ascontiguousarray(array)
    if array.dtype not in (np.float32, np.float64):  # integer constants of the network
        array = array.astype(np.float64)
    dtype = pb.DTYPE_FLOAT64 if array.dtype == np.float64 else pb.DTYPE_FLOAT32
    return pb.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def array(t):
    kinds = {pb.DTYPE_FLOAT32: np.dtype("<f4"), pb.DTYPE_FLOAT64: np.dtype("<f8")}
    if t.dtype not in kinds or len(t.data) != math.prod(t.shape) * kinds[t.dtype].itemsize:
        raise Invalid(f"images: {len(t.data)} bytes do not fill shape {list(t.shape)}")
    return np.frombuffer(t.data, kinds[t.dtype]).reshape(t.shape)


def samples(s):
    """Rows (dataset, index, dihedral) of columns."""
    n = len(s.index)
    which, ops = s.dataset or [0] * n, s.dihedral or bytes(n)
    if len(which) != n or len(ops) != n or n and max(which) >= len(s.datasets):
        raise Invalid(f"{n} indices, {len(which)} datasets and {len(ops)} symmetries of {len(s.datasets)} names")
    return [(s.datasets[d], i, op) for d, i, op in zip(which, s.index, ops)]


class Worker:
    """A session with the one thread that computes it: its calls come on any thread of
    the server's, one at a time is what it can do, and the number of threads that
    PyTorch computes with is its calling thread's."""

    def __init__(self, threads, device):
        self.device = torch.device(device)
        self.pool = concurrent.futures.ThreadPoolExecutor(1, "session", torch.set_num_threads, (threads,))
        self.session = None

    def start(self, context, f, *args):
        """Starts f(*args, tick) on the thread. tick raises once the caller is gone."""
        gone = threading.Event()
        if not context.add_callback(gone.set):
            gone.set()

        def tick():
            if gone.is_set():
                raise Cancelled

        def call():
            tick()
            try:
                return f(*args, tick)
            except (Unsupported, Invalid, Cancelled, Closed):
                raise
            except Exception as e:
                if not out_of_memory(e):
                    end_if_lost(self.device, e)
                    raise
            # Out of the handler, whose traceback holds the tensors.
            raise memory_error(self.device, "the request")

        try:
            return self.pool.submit(call)
        except RuntimeError:  # after shutdown
            raise Closed from None


def status(error):
    """The status code and text that an error is answered with."""
    if isinstance(error, Unsupported):
        return grpc.StatusCode.UNIMPLEMENTED, str(error)
    if isinstance(error, Cancelled):
        return grpc.StatusCode.CANCELLED, "the caller gave up"
    if isinstance(error, Invalid):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    if isinstance(error, Closed):
        return grpc.StatusCode.NOT_FOUND, str(error)
    log.error("a request failed", exc_info=error)
    return grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"


def answered(f):
    """Answers a method's errors. abort raises, so nothing is after it."""

    @functools.wraps(f)
    def method(self, request, context):
        try:
            return f(self, request, context)
        except Exception as e:
            error = e
        context.abort(*status(error))

    return method


class Backend(backend_pb2_grpc.BackendServicer):
    def __init__(self):
        self.workers, self.numbers = {}, itertools.count(1)
        self.devices = devices()
        self.description = self.describe()

    def describe(self):
        kinds = list(dict.fromkeys(d.kind for d in self.devices))
        notes = ["on the cpu, tf32, bfloat16 and mixed round the operands of convolutions: the numbers of a GPU, not its speed"]
        return pb.DescribeResponse(
            name="torch",
            version=torch.__version__,
            numerics=f"{NUMERICS}-{torch.__version__}",
            # What the conformance suite has confirmed: on a GPU nothing has.
            determinism="run" if kinds == ["cpu"] else "none",
            devices=[pb.Device(**d._asdict()) for d in self.devices],
            precisions=PRECISIONS,
            losses=LOSSES,
            operators=[pb.Operator(type=o, device=k, note=NOTES.get(o, "")) for k in kinds for o in OPERATORS],
            notes=notes,
        )

    def worker(self, request):
        w = self.workers.get(request.session)
        if w is None:
            raise Closed
        return w

    def call(self, request, context, method, *args):
        w = self.worker(request)
        return w.start(context, lambda tick: getattr(w.session, method)(*args, tick)).result()

    @answered
    def Describe(self, request, context):
        return self.description

    def checked(self, r):
        """The device that a session is to have, once its options are what there is."""
        names = {d.name: d.kind for d in self.devices}
        device = r.device or self.devices[0].name
        for what, asked, offered in (("precision", r.precision, PRECISIONS), ("loss", r.loss, LOSSES), ("device", device, list(names))):
            if asked not in offered:
                raise Unsupported(f'{what} "{asked}": not supported by this backend; it has {", ".join(offered)}')
        if r.precision in LACKING.get(names[device], ()):
            raise Unsupported(f'precision "{r.precision}": not supported by this backend on {device}')
        return device

    @answered
    def Memory(self, r, context):
        device = self.checked(r.session)
        if not (r.batch and r.height and r.width):
            raise Invalid(f"a batch of {r.batch} images of {r.height}×{r.width}")
        graph, math = Graph(r.session.model), Arithmetic(r.session.precision, torch.device(device))
        return pb.MemoryResponse(bytes=needed(graph, math, r.batch, r.height, r.width, r.training))

    @answered
    def Open(self, r, context):
        device = self.checked(r)
        if r.threads > MOST_THREADS:
            raise Invalid(f"{r.threads} threads: must be from 1 to {MOST_THREADS}, or 0 for one per processor")
        adam = r.adam.beta1, r.adam.beta2, r.adam.epsilon
        if not (0 <= adam[0] < 1 and 0 <= adam[1] < 1 and 0 < adam[2] < 1):
            raise Invalid(f"constants {adam} of Adam: β must be in [0, 1), ε in (0, 1)")
        w = Worker(r.threads or cores(), device)
        try:
            w.session = w.start(context, lambda tick: Session(r.model, r.precision, r.loss, device, adam)).result()
        except BaseException:
            w.pool.shutdown(wait=False)
            raise
        number = next(self.numbers)
        self.workers[number] = w
        return pb.OpenResponse(session=number)

    @answered
    def LoadDataset(self, r, context):
        self.call(r, context, "load", r.id, r.path, r.digest)
        return pb.LoadDatasetResponse()

    def Train(self, r, context):
        try:
            yield from self.steps(r, context)
            return
        except Exception as e:
            error = e
        context.abort(*status(error))

    def steps(self, r, context):
        w, rows, at, batches = self.worker(r), samples(r.samples), 0, []
        for n in r.batch_sizes:
            batches.append(rows[at : at + n])
            at += n
        if at != len(rows):
            raise Invalid(f"batches of {at} samples in all, {len(rows)} are given")
        done = queue.SimpleQueue()

        def report(index, loss, skipped, scale):
            done.put(pb.Step(batch=index, loss=loss, skipped=skipped, loss_scale=scale))

        def train(tick):
            try:
                w.session.train(batches, r.learning_rate, list(r.frozen), tick, report)
            finally:
                done.put(None)

        future = w.start(context, train)
        future.add_done_callback(lambda f: done.put(None))  # if it never ran
        while (step := done.get()) is not None:
            yield step
        future.result()

    @answered
    def Evaluate(self, r, context):
        losses, confusion = self.call(r, context, "evaluate", r.dataset, list(r.indices), r.batch_size)
        return pb.EvaluateResponse(loss=losses, confusion=confusion, classes=self.worker(r).session.classes)

    @answered
    def Predict(self, r, context):
        return pb.PredictResponse(output=tensor(self.call(r, context, "predict", array(r.images))))

    @answered
    def Gradients(self, r, context):
        loss, gradients = self.call(r, context, "gradients", samples(r.batch), list(r.frozen))
        return pb.GradientsResponse(loss=loss, gradients=[pb.NamedTensor(name=n, tensor=tensor(g)) for n, g in gradients])

    @answered
    def Activations(self, r, context):
        values = self.call(r, context, "activations", samples(r.batch), list(r.names), r.training)
        return pb.ActivationsResponse(activations=[pb.NamedTensor(name=n, tensor=tensor(v)) for n, v in values])

    @answered
    def State(self, r, context):
        w = self.worker(r)
        return pb.StateResponse(state=w.start(context, lambda tick: w.session.state()).result())

    @answered
    def SetState(self, r, context):
        w = self.worker(r)
        w.start(context, lambda tick: w.session.set_state(r.state)).result()
        return pb.SetStateResponse()

    @answered
    def Close(self, r, context):
        w = self.workers.pop(r.session, None)
        if w is None:
            raise Closed
        w.pool.shutdown(wait=False)
        w.session = None
        return pb.CloseResponse()

