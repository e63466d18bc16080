"""Compiles kernels.cu to kernels.ptx, which needs no GPU, and sees that it assembles.

NVIDIA's compilers come from PyPI, some 70 MB, once, into the folder that the first
argument names (default: ~/.cache/refocus/cuda). NVRTC is that of CUDA 11.8: its PTX is
of ISA 7.8, which every driver since then takes; a later compiler's wants a later
driver. kernels.sha256 says which source the PTX belongs to; a test compares.
"""
import ctypes
import hashlib
import pathlib
import subprocess
import sys
import zipfile

# compute_60: the driver makes code of it for every GPU since Pascal. No contraction of
# products and sums, nothing approximate: the arithmetic is as written.
OPTIONS = [b"--gpu-architecture=compute_60", b"--fmad=false", b"--ftz=false", b"--prec-div=true", b"--prec-sqrt=true", b"--std=c++17"]
COMPILER = "nvidia-cuda-nvrtc-cu11==11.8.89"
# What assembles: CUDA 11.8's for what it knows, a later one for later GPUs.
ASSEMBLERS = {
    "nvidia-cuda-nvcc-cu11==11.8.89": "60 70 75 80 86 89 90",
    "nvidia-cuda-nvcc==13.0.88": "75 80 86 89 90 100 103 110 120 121",
}

here = pathlib.Path(__file__).resolve().parent
cache = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "~/.cache/refocus/cuda").expanduser()


def wheel(requirement):
    """The folder with a wheel's contents."""
    folder = cache / requirement.replace("==", "-")
    if not folder.exists():
        wheels = cache / "wheels"
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", wheels, requirement], check=True)
        part = folder.with_name(folder.name + ".part")
        for file in wheels.glob("*.whl"):
            zipfile.ZipFile(file).extractall(part)
            file.unlink()
        part.rename(folder)
    return folder


def find(requirement, name):
    return next(wheel(requirement).rglob(name))


def compile(source):
    find(COMPILER, "libnvrtc-builtins.so.*")
    library = find(COMPILER, "libnvrtc.so.*")
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()

    def call(name, *args):
        status = getattr(nvrtc, name)(*args)
        if status:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            sys.exit(f"{name}: status {status}\n{log.value.decode()}")

    call("nvrtcCreateProgram", ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    call("nvrtcCompileProgram", program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
    size = ctypes.c_size_t()
    call("nvrtcGetPTXSize", program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    call("nvrtcGetPTX", program, ptx)
    return ptx.value


def assemble(file):
    for requirement, devices in ASSEMBLERS.items():
        ptxas = find(requirement, "ptxas")
        ptxas.chmod(0o755)
        for device in devices.split():
            said = subprocess.run([ptxas, "-v", f"-arch=sm_{device}", file, "-o", "/dev/null"], check=True, stderr=subprocess.PIPE, text=True).stderr
            spilt = [line for line in said.splitlines() if "spill" in line and " 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" not in line]
            print(f"sm_{device}: assembled by {requirement}" + "".join("\n\t" + line.strip() for line in spilt))


def main():
    ptx = compile((here / "kernels.cu").read_bytes())
    (here / "kernels.ptx").write_bytes(ptx)
    assemble(here / "kernels.ptx")
    lines = [f"{hashlib.sha256((here / name).read_bytes()).hexdigest()}  {name}\n" for name in ("kernels.cu", "compile.py", "kernels.ptx")]
    (here / "kernels.sha256").write_text("".join(lines))


main()
