"""What a session of each precision computes with.

float32 and float64 are PyTorch's, without TF32. The others round the two operands of
every convolution, forwards and backwards, and add up in float32:

    tf32      to 10 bits of mantissa, float32's exponents
    bfloat16  to 7 bits of mantissa, float32's exponents
    mixed     to 10 bits of mantissa, float16's exponents; with a scaled loss

On a GPU its tensor cores do that: TF32 by cuDNN, the other two by PyTorch's autocast,
which also keeps values between operators in 16 bits. On a CPU the operands are rounded
in so many words, and the rest is float32: the numbers to expect from a GPU, no speed.
"""

import contextlib

import torch
import torch.nn.functional as F

PRECISIONS = ["float32", "tf32", "bfloat16", "mixed", "float64"]

# Kinds of devices and what they lack.
LACKING = {"mps": {"float64", "tf32", "bfloat16", "mixed"}}

AUTOCAST = {"bfloat16": torch.bfloat16, "mixed": torch.float16}


def round_tf32(x):
    """float32 rounded to 10 bits of mantissa, ties to even."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def round_through(dtype):
    return lambda x: x.to(dtype).to(torch.float32)


ROUND = {"tf32": round_tf32, "bfloat16": round_through(torch.bfloat16), "mixed": round_through(torch.float16)}


class RoundedConv(torch.autograd.Function):
    """A convolution of rounded operands, whose gradients have rounded operands, too."""

    @staticmethod
    def forward(ctx, x, weight, bias, geometry, rounded):
        x, weight = rounded(x), rounded(weight)
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.rounded, ctx.biased = geometry, rounded, bias is not None
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, y):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        dx, dw, _ = torch.ops.aten.convolution_backward(
            ctx.rounded(y), x, weight, None, stride, padding, dilation, False, [0, 0], groups, wanted
        )
        db = y.sum((0, 2, 3)) if ctx.biased and ctx.needs_input_grad[2] else None
        return dx, dw, db, None, None


class Arithmetic:
    """How a session's passes are computed on its device."""

    def __init__(self, precision, device):
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        self.scaled = precision == "mixed"
        self.tf32 = precision == "tf32"
        self.accelerated = device.type == "cuda"
        self.autocast = AUTOCAST.get(precision) if self.accelerated else None
        # Tensor cores want channels last; in float32 it is no faster, and on a CPU
        # PyTorch's gradient of a strided 1×1 convolution has crashed with it.
        channels_last = self.accelerated and precision in ("tf32", *AUTOCAST)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        rounded = None if self.accelerated else ROUND.get(precision)
        if rounded is None:
            self.conv = F.conv2d
        else:
            self.conv = lambda x, w, b, stride, padding, dilation, groups: RoundedConv.apply(
                x, w, b, (stride, list(padding), dilation, groups), rounded
            )

    @contextlib.contextmanager
    def active(self):
        """PyTorch's switches set for passes of this session. They are the process's:
        sessions of accelerators take turns (session.py)."""
        if not self.accelerated:
            yield
            return
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.tf32
        if self.autocast is None:
            yield
            return
        with torch.autocast("cuda", self.autocast, cache_enabled=False):
            yield
