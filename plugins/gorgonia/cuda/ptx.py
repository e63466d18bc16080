"""Compiles kernels.cu to kernels.ptx with NVRTC, which needs no GPU.

Usage: ptx.py LIBNVRTC OUT, with libnvrtc.so.11.x of NVIDIA's PyPI wheels.
"""
import ctypes
import pathlib
import sys

here = pathlib.Path(__file__).parent
nvrtc = ctypes.CDLL(sys.argv[1])


def call(name, *args):
    status = getattr(nvrtc, name)(*args)
    if status:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"{name}: status {status}\n{log.value.decode()}")


program = ctypes.c_void_p()
source = (here / "kernels.cu").read_bytes()
call("nvrtcCreateProgram", ctypes.byref(program), source, b"kernels.cu", 0, None, None)
# No contraction of products and sums: the stand-in does the same arithmetic.
options = [b"--gpu-architecture=compute_60", b"--fmad=false"]
call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
size = ctypes.c_size_t()
call("nvrtcGetPTXSize", program, ctypes.byref(size))
ptx = ctypes.create_string_buffer(size.value)
call("nvrtcGetPTX", program, ptx)
pathlib.Path(sys.argv[2]).write_text(ptx.value.decode())
