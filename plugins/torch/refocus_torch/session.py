"""One network with its optimiser: what the methods of the service compute."""

import math
import threading

import numpy as np
import torch
import torch.nn.functional as F

from . import safetensors
from .dataset import Dataset, Plan
from .device import Pending, end_if_lost, memory_error, out_of_memory
from .errors import Invalid
from .graph import Graph, group
from .precision import Arithmetic

FIRST, SECOND = "adam.m.", "adam.v."

# Dynamic loss scaling as in torch.cuda.amp.
INITIAL_SCALE = 65536.0
GROW_AFTER = 2000

# Pixels of a batch of inference whose size is the backend's choice, and the images of
# one whose size was asked for.
PIXELS = {"cpu": 1 << 14, "cuda": 1 << 22, "mps": 1 << 20}
MOST = 256

# PyTorch's switches of precision are the process's, so sessions of accelerators, which
# the device makes wait for each other anyway, launch their passes one at a time.
turn = threading.RLock()


def needed(graph, arithmetic, count, height, width, training):
    """The bytes of a pass: of its values, in training twice (a gradient is as large as
    what it is of), and of weights, gradients and moments."""
    shapes = graph.shapes(count, graph.channels, height, width)
    size = torch.finfo(arithmetic.dtype).bits // 8
    values = [math.prod(shapes[n.outputs[0]]) * (2 if arithmetic.autocast else size) for n in graph.nodes]
    held = 4 * size * sum(math.prod(graph.tensors[name].shape) for name in graph.values)
    return held + (2 * sum(values) if training else 2 * max(values))


class Session:
    """Methods are called by one thread, one at a time."""

    def __init__(self, model, precision, loss, device, adam):
        self.graph = Graph(model)
        self.device, self.precision, self.loss, self.adam = torch.device(device), precision, loss, adam
        self.math = Arithmetic(precision, self.device)
        self.classes = self.graph.shapes(self.graph.batch or 1, self.graph.channels, *self._some_size())[self.graph.output][1]
        self.datasets = {}
        self.weights = {name: self._put(self.graph.tensors[name]) for name in self.graph.values}
        self.first = {p: torch.zeros_like(self.weights[p]) for p in self.graph.parameters}
        self.second = {p: torch.zeros_like(self.weights[p]) for p in self.graph.parameters}
        self.step, self.scale, self.good = 0, INITIAL_SCALE if self.math.scaled else 1.0, 0
        self.constants = {n: self._put(t) for n, t in self.graph.tensors.items() if n not in self.weights}

    def _some_size(self):
        """A height and width that the network accepts."""
        fixed = self.graph.size
        for n in (2**k for k in range(4, 11)):
            size = fixed[0] or n, fixed[1] or n
            try:
                self.graph.output_shape(*size)
                return size
            except Invalid as e:
                error = e
        raise error

    def _put(self, array):
        t = torch.from_numpy(np.array(array)).to(self.device, self.math.dtype)  # a copy
        return t.contiguous(memory_format=self.math.format) if t.dim() == 4 else t

    @staticmethod
    def _get(tensor):
        t = tensor.detach()
        if t.dtype in (torch.float16, torch.bfloat16):
            t = t.float()
        return t.cpu().contiguous().numpy()

    def guarded(self, what, count, height, width, training, f):
        """Calls f, whose failures of the device become errors that say more."""
        try:
            if self.device.type == "cpu":
                return f()
            with turn, self.math.active():
                return f()
        except (RuntimeError, MemoryError) as e:
            if not out_of_memory(e):
                end_if_lost(self.device, e)
                raise
        # Out of the handler, whose traceback holds the tensors.
        raise memory_error(self.device, f"{what} of {count} images of {height}×{width} in {self.precision}",
                           needed(self.graph, self.math, count, height, width, training))

    def load(self, name, path, digest, tick):
        try:
            d = Dataset(path, digest, self.classes, self.device, tick)
        except Invalid as e:
            raise Invalid(f'dataset "{name}": {e}') from None
        if d.channels != self.graph.channels:
            raise Invalid(f'dataset "{name}": {path} has images of {d.channels} channels, the network takes {self.graph.channels}')
        self.datasets[name] = d

    def plan(self, samples, training=False):
        p = Plan(self.datasets, samples)
        out = self.graph.output_shape(p.height, p.width)
        if out[2:] != [p.height, p.width]:
            raise Invalid(f"labels of {p.height}×{p.width} do not fit the network's output {out[2]}×{out[3]}")
        self.graph.shapes(p.count, self.graph.channels, p.height, p.width)  # refuses another fixed batch
        if training:
            self.graph.check_normal(p.count, p.height, p.width)
        return p

    def free(self, frozen):
        """The parameters outside the frozen groups."""
        for f in frozen:
            if f not in self.graph.groups:
                raise Invalid(f'frozen group "{f}": the network\'s parameters are in {", ".join(self.graph.groups)}')
        return [p for p in self.graph.parameters if group(p) not in frozen]

    def scored(self):
        """The value that the loss is applied to."""
        if not self.graph.scored:
            raise Invalid(f"{self.graph.nodes[-1].where()}: the network does not end in a Softmax, which the losses need")
        return self.graph.scored[self.loss]

    def criterion(self, z, labels, per_image=False):
        e = F.cross_entropy(z.float() if self.math.dtype == torch.float32 else z, labels, reduction="none")
        return e.double().mean((1, 2)) if per_image and self.device.type != "mps" else e.mean((1, 2) if per_image else (0, 1, 2))

    def statistics(self):
        """Copies for a pass in training mode to move."""
        return {name: self.weights[name].clone() for name in self.graph.statistics}

    def differentiate(self, plan, free, tick):
        """The loss, the gradients of the free parameters multiplied by the scale, and
        the running statistics after one batch."""
        images, labels = plan.load(self.device, self.math.dtype, self.math.format)
        weights = dict(self.weights)
        for p in free:
            weights[p] = self.weights[p].detach().requires_grad_(True)
        statistics, scored = self.statistics(), self.scored()
        z = self.graph.run(images, weights, self.math.conv, statistics, tick, last=scored)[scored]
        loss = self.criterion(z, labels)
        target = loss * self.scale if self.scale != 1 else loss
        gradients = torch.autograd.grad(target, [weights[p] for p in free]) if free else ()
        return loss.detach(), list(gradients), statistics

    def train_step(self, plan, rate, free, tick):
        """One step: the loss on the device, whether it was skipped, the scale used."""
        loss, gradients, statistics = self.differentiate(plan, free, tick)
        scale = self.scale
        if self.math.scaled:
            # The one place where a step waits for the device, as in PyTorch's GradScaler.
            if free:
                if not bool(torch.stack([g.isfinite().all() for g in gradients]).all()):
                    self.scale, self.good = scale / 2, 0
                    return loss, True, scale
                torch._foreach_div_(gradients, scale)
            self.good += 1
            if self.good == GROW_AFTER:
                self.scale, self.good = scale * 2, 0
        self.weights.update(statistics)
        self.step += 1
        if free:
            self.update(free, gradients, rate)
        return loss, False, scale

    @torch.no_grad()
    def update(self, free, g, rate):
        """Adam. A parameter without a gradient keeps its moments."""
        b1, b2, epsilon = self.adam
        w, m, v = ([of[p] for p in free] for of in (self.weights, self.first, self.second))
        torch._foreach_mul_(m, b1)
        torch._foreach_add_(m, g, alpha=1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, g, g, 1 - b2)
        root = torch._foreach_sqrt(v)
        torch._foreach_div_(root, math.sqrt(1 - b2**self.step))
        torch._foreach_add_(root, epsilon)
        torch._foreach_addcdiv_(w, m, root, -rate / (1 - b1**self.step))

    def train(self, batches, rate, frozen, tick, report):
        """A step per batch; report gets each step's index, loss, whether it was skipped
        and the scale, in order, and not before the step is done."""
        if not 0 <= rate < math.inf:
            raise Invalid(f"learning rate {rate}: must be finite and not negative")
        free = self.free(frozen)
        plans = []
        for i, samples in enumerate(batches):
            try:
                plans.append(self.plan(samples, training=True))
            except Invalid as e:
                raise Invalid(f"batch {i}: {e}") from None
        pending = Pending(self.device)
        for i, p in enumerate(plans):
            tick()

            def one():
                loss, skipped, scale = self.train_step(p, rate, free, tick)
                pending.put((i, skipped, scale if self.math.scaled else 0.0), loss)
                return list(pending.done(all=i == len(plans) - 1))

            for (index, skipped, scale), loss in self.guarded("a training step", p.count, p.height, p.width, True, one):
                report(index, loss, skipped, scale)

    def gradients(self, samples, frozen, tick):
        free, p = self.free(frozen), self.plan(samples, training=True)

        def one():
            loss, gradients, _ = self.differentiate(p, free, tick)
            if self.math.scaled and free:
                torch._foreach_div_(gradients, self.scale)
            return float(loss), [(name, self._get(g)) for name, g in zip(free, gradients)]

        return self.guarded("a gradient", p.count, p.height, p.width, True, one)

    def at_once(self, height, width):
        """How many images go through the network together in inference."""
        return self.graph.batch or max(1, min(MOST, PIXELS[self.device.type] // (height * width)))

    def forward(self, images, tick, scored=None):
        """The values of a pass in inference mode."""
        return self.graph.run(images, self.weights, self.math.conv, None, tick, last=scored)

    @torch.no_grad()
    def evaluate(self, name, indices, size, tick):
        """Per sample the loss and the confusion [label][predicted], flat."""
        d = self.datasets.get(name)
        if d is None:
            raise Invalid(f'unknown dataset "{name}" (LoadDataset names them)')
        indices = indices or list(range(d.count))
        size = min(size, MOST) if size and not self.graph.batch else self.at_once(d.height, d.width)
        plans = []
        for at in range(0, len(indices), size):
            chunk = indices[at : at + size]
            chunk += chunk[-1:] * (self.graph.batch - len(chunk))  # a fixed batch is filled up
            plans.append(self.plan([(name, i, 0) for i in chunk]))
        losses, counts, pending = [], [], Pending(self.device)
        for p in plans:
            tick()

            def one():
                images, labels = p.load(self.device, self.math.dtype, self.math.format)
                scored = self.scored()
                values = self.forward(images, tick, scored)
                loss = self.criterion(values[scored], labels, per_image=True)
                cell = (labels * self.classes + values[self.graph.output].argmax(1)).flatten(1)
                count = torch.zeros(p.count, self.classes**2, dtype=torch.int64, device=self.device)
                count.scatter_add_(1, cell, torch.ones_like(cell))
                losses.append(loss)
                counts.append(count)
                pending.put(None, loss[0])
                return list(pending.done())

            self.guarded("an evaluation", p.count, d.height, d.width, False, one)
        n = len(indices)
        return self._get(torch.cat(losses))[:n].tolist(), self._get(torch.cat(counts))[:n].flatten().tolist()

    @torch.no_grad()
    def predict(self, images, tick):
        """The output [N,K,H,W] for images [N,C,H,W]."""
        if images.ndim != 4 or not images.size:
            raise Invalid(f"images of shape {list(images.shape)}: must be [N,C,H,W] with at least one pixel")
        n, channels, h, w = images.shape
        fixed = self.graph.batch
        if fixed and n % fixed:
            raise Invalid(f"{n} images: the network takes {fixed} at once, so their number must be a multiple of that")
        self.graph.shapes(fixed or 1, channels, h, w)
        size, parts = self.at_once(h, w), []
        for at in range(0, n, size):
            tick()
            part = images[at : at + size]
            parts.append(self.guarded("a prediction", len(part), h, w, False,
                                      lambda: self._get(self.forward(self._put(part), tick)[self.graph.output])))
        return np.concatenate(parts)

    @torch.no_grad()
    def activations(self, samples, names, training, tick):
        """Named values of the network for one batch."""
        p = self.plan(samples, training)
        known = {o for n in self.graph.nodes for o in n.outputs} | {self.graph.input} | set(self.graph.tensors)
        for name in names:
            if name not in known:
                raise Invalid(f'the network has no value "{name}"')

        def one():
            images, _ = p.load(self.device, self.math.dtype, self.math.format)
            values = self.graph.run(images, self.weights, self.math.conv, self.statistics() if training else None, tick, keep=True)
            values.update(self.weights)
            values.update(self.constants)
            return [(name, self._get(values[name])) for name in names]

        return self.guarded("a pass", p.count, p.height, p.width, True, one)

    def state(self):
        """Weights, statistics and the optimiser's state as safetensors."""
        tensors = [(name, self._get(self.weights[name])) for name in self.graph.values]
        for prefix, of in ((FIRST, self.first), (SECOND, self.second)):
            tensors += [(prefix + p, self._get(of[p])) for p in self.graph.parameters]
        metadata = {"step": str(self.step)}
        if self.math.scaled:
            metadata |= {"loss_scale": repr(self.scale), "good_steps": str(self.good)}
        return safetensors.encode(tensors, metadata)

    def set_state(self, data):
        """Everything is read before anything changes."""
        try:
            arrays, metadata = safetensors.decode(data)
            values = {name: self._entry(arrays, name, name) for name in self.graph.values}
            moments = [sum(prefix + p in arrays for p in self.graph.parameters) for prefix in (FIRST, SECOND)]
            step, scale, good = 0, INITIAL_SCALE if self.math.scaled else 1.0, 0
            first = second = None
            if sum(moments):
                if sum(moments) != 2 * len(self.graph.parameters):
                    raise Invalid(f"it holds {sum(moments)} of the optimiser's {2 * len(self.graph.parameters)} moments: all or none are needed")
                first, second = ({p: self._entry(arrays, prefix + p, p) for p in self.graph.parameters} for prefix in (FIRST, SECOND))
                step = counter(metadata, "step")
                if self.math.scaled and "loss_scale" in metadata:  # not in a state of another precision
                    scale, good = positive(metadata, "loss_scale"), counter(metadata, "good_steps", GROW_AFTER)
        except Invalid as e:
            raise Invalid(f"setting the state: {e}") from None
        self.weights, self.step, self.scale, self.good = values, step, scale, good
        self.first = first or {p: torch.zeros_like(values[p]) for p in self.graph.parameters}
        self.second = second or {p: torch.zeros_like(values[p]) for p in self.graph.parameters}

    def _entry(self, arrays, name, like):
        a, shape = arrays.get(name), self.graph.tensors[like].shape
        if a is None:
            raise Invalid(f'it lacks "{name}", of shape {list(shape)}')
        if a.shape != shape:
            raise Invalid(f'"{name}" has shape {list(a.shape)}, not {list(shape)}: it belongs to another network')
        if a.dtype not in (np.float32, np.float64):
            raise Invalid(f'"{name}" is {a.dtype}, not F32 or F64')
        return self._put(a)


def counter(metadata, key, below=math.inf):
    text = metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and int(text) < below):
        raise Invalid(f'its {key} is "{text}", not a count below {below}')
    return int(text)


def positive(metadata, key):
    try:
        v = float(metadata[key])
    except ValueError:
        v = 0.0
    if not 0 < v < math.inf:
        raise Invalid(f'its {key} is "{metadata[key]}", not a positive number')
    return v
