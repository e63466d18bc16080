"""Labelled images on a session's device, and batches of them."""

import hashlib
import mmap

import numpy as np
import torch

from . import safetensors
from .device import out_of_memory
from .errors import Invalid

# Bytes read between two looks at whether the caller has given up.
PART = 1 << 24


def read(path, digest, tick):
    """The images F32 [N,C,H,W] and labels U8 [N,H,W] of a file of this SHA-256."""
    try:
        with open(path, "rb") as f:
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as e:  # ValueError: an empty file
        raise Invalid(f"{path}: {e}") from None
    sha, view = hashlib.sha256(), memoryview(data)
    for at in range(0, len(data), PART):
        tick()
        sha.update(view[at : at + PART])
    if sha.hexdigest() != digest:
        raise Invalid(f'{path} has SHA-256 {sha.hexdigest()}, not "{digest}": it has changed or is another file')
    try:
        arrays, _ = safetensors.decode(view)
    except Invalid as e:
        raise Invalid(f"{path}: {e}") from None
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None or images.dtype != np.float32 or images.ndim != 4:
        raise Invalid(f'{path}: needs a tensor "images" of F32 [N,C,H,W]')
    n, _, h, w = images.shape
    if labels is None or labels.dtype != np.uint8 or labels.shape != (n, h, w):
        raise Invalid(f'{path}: needs a tensor "labels" of U8 [N,H,W] for images {list(images.shape)}')
    if not images.size:
        raise Invalid(f"{path}: holds no images: shape {list(images.shape)}")
    return images, labels


class Dataset:
    """Images and labels where the session computes, or in this process's memory where
    its device has no room for them."""

    def __init__(self, path, digest, classes, device, tick):
        images, labels = read(path, digest, tick)
        self.count, self.channels, self.height, self.width = images.shape
        for i in range(self.count):
            tick()
            if not np.isfinite(images[i]).all():
                c, y, x = np.argwhere(~np.isfinite(images[i]))[0]
                raise Invalid(f"{path}: sample {i}: value {images[i, c, y, x]} at row {y}, column {x}")
            if labels[i].max() >= classes:
                y, x = np.argwhere(labels[i] >= classes)[0]
                raise Invalid(f"{path}: sample {i}: label {labels[i, y, x]} at row {y}, column {x}; the network has {classes} classes")
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        if device.type != "cpu":
            try:
                self.images, self.labels = self.images.to(device), self.labels.to(device)
            except RuntimeError as e:
                if not out_of_memory(e):
                    raise
        self._maps = None

    def maps(self):
        """Where each pixel of an image under each of the eight symmetries comes from,
        as numpy.rot90(a.T if op & 4 else a, op & 3) has it: [8, H·W]."""
        if self._maps is None:
            at = np.arange(self.height * self.width).reshape(self.height, self.width)
            turned = [np.rot90(at.T if op & 4 else at, op & 3).reshape(-1) for op in range(8)]
            self._maps = torch.from_numpy(np.stack(turned)).to(self.images.device)
        return self._maps

    def take(self, indices, symmetries):
        """The images [n,C,H,W] and labels [n,H,W] of samples; symmetries may be None."""
        indices = indices.to(self.images.device)
        images, labels = self.images.index_select(0, indices), self.labels.index_select(0, indices)
        if symmetries is None:
            return images, labels
        maps = self.maps().index_select(0, symmetries.to(self.images.device))
        n = len(indices)
        images = images.flatten(2).gather(2, maps[:, None].expand(-1, self.channels, -1)).view_as(images)
        return images, labels.flatten(1).gather(1, maps).view(n, self.height, self.width)


class Plan:
    """Where the samples of one batch are: for each dataset their places in the batch,
    their indices and symmetries. Everything that can be wrong has been looked at."""

    def __init__(self, datasets, samples):
        if not samples:
            raise Invalid("the batch is empty")
        first = None
        by = {}
        for place, (name, index, op) in enumerate(samples):
            d = datasets.get(name)
            if d is None:
                raise Invalid(f'unknown dataset "{name}" (LoadDataset names them)')
            first = first or d
            if index >= d.count:
                raise Invalid(f'dataset "{name}": sample {index}: the dataset has {d.count}')
            if op > 7:
                raise Invalid(f'dataset "{name}": sample {index}: dihedral {op}, must be from 0 to 7')
            if op and d.height != d.width:
                raise Invalid(f'dataset "{name}": sample {index}: dihedral {op} of an image of {d.height}×{d.width}, which is not square')
            if (d.height, d.width) != (first.height, first.width):
                raise Invalid(f'dataset "{name}" has images of {d.height}×{d.width} in a batch of {first.height}×{first.width}')
            by.setdefault(name, []).append((place, index, op))
        self.count, self.height, self.width = len(samples), first.height, first.width
        self.parts = [(datasets[name], np.array(rows, np.int64).T) for name, rows in by.items()]

    def load(self, device, dtype, format):
        """Images [N,C,H,W] and labels [N,H,W] on a device."""
        taken = []
        for d, (_, indices, ops) in self.parts:
            rows = torch.from_numpy(np.stack([indices, ops])).to(d.images.device, non_blocking=True)
            images, labels = d.take(rows[0], rows[1] if ops.any() else None)
            taken.append((images.to(device), labels.to(device)))
        if len(taken) == 1:
            images, labels = taken[0]
        else:
            places = np.argsort(np.concatenate([rows[0] for _, rows in self.parts]), kind="stable")
            order = torch.from_numpy(places).to(device, non_blocking=True)
            images = torch.cat([t[0] for t in taken]).index_select(0, order)
            labels = torch.cat([t[1] for t in taken]).index_select(0, order)
        return images.to(dtype).contiguous(memory_format=format), labels.long()
