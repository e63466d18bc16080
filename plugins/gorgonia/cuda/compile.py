"""Compiles kernels.cu to PTX with NVRTC 11.8, which needs no GPU.

Usage: compile.py LIBNVRTC OUT, with libnvrtc.so.11.2 of PyPI's
nvidia-cuda-nvrtc-cu11 11.8.89. Its PTX is of ISA 7.8, which every driver since CUDA
11.8 takes; a later compiler's needs a later driver.
"""
import ctypes
import pathlib
import sys

# compute_60: what the driver makes GPUs from Pascal on of. No contraction of products
# and sums: the arithmetic is as written.
OPTIONS = [b"--gpu-architecture=compute_60", b"--fmad=false", b"--ftz=false", b"--prec-div=true", b"--prec-sqrt=true", b"--std=c++17"]

here = pathlib.Path(__file__).parent
nvrtc = ctypes.CDLL(sys.argv[1])
program = ctypes.c_void_p()


def call(name, *args):
    status = getattr(nvrtc, name)(*args)
    if status:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"{name}: status {status}\n{log.value.decode()}")


call("nvrtcCreateProgram", ctypes.byref(program), (here / "kernels.cu").read_bytes(), b"kernels.cu", 0, None, None)
call("nvrtcCompileProgram", program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
size = ctypes.c_size_t()
call("nvrtcGetPTXSize", program, ctypes.byref(size))
ptx = ctypes.create_string_buffer(size.value)
call("nvrtcGetPTX", program, ptx)
pathlib.Path(sys.argv[2]).write_text(ptx.value.decode())
