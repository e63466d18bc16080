"""Devices, and what becomes of them."""

import gc
import logging
import os
import platform
import re
import typing

import torch

from .errors import Invalid

# The exit status of a process whose device is lost: sysexits' EX_UNAVAILABLE.
LOST = 69

log = logging.getLogger("device")


class Device(typing.NamedTuple):
    """What Describe says of one."""

    name: str
    kind: str
    info: str
    id: str = ""  # a GPU's UUID
    driver: str = ""
    memory: int = 0  # bytes


def devices():
    """The devices; the first is the default."""
    found = []
    for i in range(torch.cuda.device_count()):  # AMD's GPUs, too, have this name
        p = torch.cuda.get_device_properties(i)
        runtime = f"HIP {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        uuid = str(getattr(p, "uuid", ""))  # PyTorch 2.4 and later
        found.append(Device(f"cuda:{i}", "cuda", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, {runtime}",
                            uuid and "GPU-" + uuid, driver(), p.total_memory))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "mps", f"{platform.processor() or platform.machine()}, Metal"))
    found.append(Device("cpu", "cpu", f"{cores()} processors, {capability()}"))
    return found


def driver():
    """The version of the GPUs' driver, or "" where Linux does not tell."""
    amd = "/sys/module/amdgpu/version"
    path, pattern = (amd, r"(\S+)") if torch.version.hip else ("/proc/driver/nvidia/version", r"Kernel Module\b.*?\s(\d[\d.]+)")
    try:
        with open(path) as f:
            found = re.search(pattern, f.read())
    except OSError:
        return ""
    return found.group(1) if found else ""


def cores():
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def capability():
    """The instruction set that PyTorch's own kernels use."""
    if hasattr(torch.backends, "cpu"):
        return torch.backends.cpu.get_cpu_capability()
    for line in torch.__config__.show().splitlines():
        if "CPU capability usage:" in line:
            return line.split(":")[1].strip()
    return platform.machine()


def out_of_memory(error):
    text = str(error)
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        s in text for s in ("out of memory", "can't allocate memory", "not enough memory")
    )


def memory_error(device, what, needed=None):
    """The error for work that did not fit, with the bytes that it needs where they are
    known; the device's unused memory is given back."""
    gc.collect()
    text = f"{what} needs at least {needed / 2**30:.2f} GiB" if needed else f"{what} needs more memory than there is"
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        text += f"; {free / 2**30:.2f} GiB of {device}'s {total / 2**30:.2f} GiB are free"
    else:
        text += f"; {device} has too little memory"
    return Invalid(text + ": take smaller batches or another device")


def alive(device):
    """Whether a device still computes."""
    try:
        ok = float(torch.ones(8, device=device).sum()) == 8
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return ok
    except RuntimeError:
        return False


def end_if_lost(device, error):
    """Ends the process if its device no longer answers, as after an error that spoils
    CUDA's context: no session of this process can go on, those of another can."""
    if device.type == "cpu" or alive(device):
        return
    log.error("the device is lost", extra={"pairs": {"device": str(device), "error": str(error).splitlines()[0]}})
    os._exit(LOST)


class Pending:
    """Results of a device in the order in which they were asked for.

    A GPU computes behind the program's back; waiting for each result would let it run
    dry. So up to `depth` are awaited together, and those that are done are given out.
    """

    def __init__(self, device, depth=4):
        self.cuda = device.type == "cuda"
        self.depth = depth if self.cuda else 0
        self.queue = []

    def put(self, item, scalar):
        """Adds an item with the scalar on the device that completes it."""
        if not self.cuda:
            self.queue.append((item, scalar, None))
            return
        host = torch.empty((), dtype=scalar.dtype, pin_memory=True)
        host.copy_(scalar.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.queue.append((item, host, event))

    def done(self, all=False):
        """The items that are complete, with their scalars as numbers."""
        while self.queue:
            item, scalar, event = self.queue[0]
            if event is not None and not event.query():
                if not all and len(self.queue) <= self.depth:
                    return
                event.synchronize()
            self.queue.pop(0)
            yield item, float(scalar)
