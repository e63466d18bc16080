#!/bin/sh
# Checks the CUDA build of the Gorgonia backend on a machine without a GPU.
#
#   check.sh link     vet it, link it against NVIDIA's cuBLAS and cuDNN, and see
#                     that kernels.ptx is what kernels.cu compiles to
#   check.sh standin  run its tests against the stand-in library (standin.cc)
#   check.sh ptx      compile kernels.cu to kernels.ptx
#
# Headers and libraries come from NVIDIA's cu11 wheels on PyPI, about 1.2 GB,
# once, into $REFOCUS_CUDA_CACHE (default ~/.cache/refocus/cuda). Needed besides
# Go: python3 with pip, a C and a C++ compiler. Without PyPI or a compiler it
# says what is missing and exits with status 3, which a caller may take for a
# skipped check.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${REFOCUS_CUDA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/refocus/cuda}
nvidia=$cache/nvidia

missing() { echo "cuda-check: skipped: $1" >&2; exit 3; }
command -v gcc >/dev/null && command -v g++ >/dev/null || missing "no gcc and g++"
command -v python3 >/dev/null || missing "no python3"

# gorgonia.org/cu is made for cuDNN 8, whose wheels for CUDA 11 are these.
if [ ! -e "$cache/complete" ]; then
	mkdir -p "$cache/wheels"
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$cache/wheels" \
		nvidia-cuda-runtime-cu11==11.8.89 nvidia-cuda-nvcc-cu11==11.8.89 nvidia-cuda-nvrtc-cu11==11.8.89 \
		nvidia-cublas-cu11==11.11.3.6 nvidia-cudnn-cu11==8.9.6.50 || missing "PyPI has not given NVIDIA's wheels"
	for wheel in "$cache"/wheels/*.whl; do
		python3 -m zipfile -e "$wheel" "$cache"
	done
	chmod +x "$nvidia/cuda_nvcc/bin/ptxas"
	rm -r "$cache/wheels"
	touch "$cache/complete"
fi

include="-I$nvidia/cuda_runtime/include -I$nvidia/cuda_nvcc/include -I$nvidia/cublas/include -I$nvidia/cudnn/include"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# functions lists the functions that a header declares, as the linker sees them.
functions() {
	echo "#include <$1>" | gcc $include -E -P - | tr '\n' ' ' | grep -oE '\b(cu[A-Z]|cudnn|cublas)[A-Za-z0-9_]* ?\(' | tr -d ' (' | sort -u
}

# ptx compiles the kernels to $1 and assembles that for some devices.
ptx() {
	LD_LIBRARY_PATH=$nvidia/cuda_nvrtc/lib python3 "$here/ptx.py" "$nvidia/cuda_nvrtc/lib/libnvrtc.so.11.2" "$1"
	for device in sm_60 sm_70 sm_80 sm_90; do
		"$nvidia/cuda_nvcc/bin/ptxas" -arch=$device "$1" -o /dev/null
	done
}

export CGO_ENABLED=1 CGO_CFLAGS="$include -O2 -w" CGO_LDFLAGS="-L$work"
cd "$here/.."

case ${1:-} in
link)
	ptx "$work/kernels.ptx"
	cmp "$work/kernels.ptx" "$here/kernels.ptx" || { echo "cuda-check: kernels.ptx is not what kernels.cu compiles to; run $0 ptx" >&2; exit 1; }
	# The driver's library comes with the driver: an empty one stands for it.
	functions cuda.h | sed 's/.*/void &(void) {}/' >"$work/driver.c"
	gcc -shared -fPIC -w -fno-builtin -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so" "$work/driver.c"
	ln -s "$nvidia/cublas/lib/libcublas.so.11" "$work/libcublas.so"
	ln -s "$nvidia/cudnn/lib/libcudnn.so.8" "$work/libcudnn.so"
	export CGO_LDFLAGS="$CGO_LDFLAGS -Wl,-rpath-link,$nvidia/cublas/lib:$nvidia/cudnn/lib"
	go vet -tags cuda ./...
	go build -tags cuda -o "$work/refocus-backend-gorgonia" ./cmd/refocus-backend-gorgonia
	echo "cuda-check: compiled, vetted and linked; needs $(readelf -d "$work/refocus-backend-gorgonia" | grep -oE 'lib(cuda|cublas|cudnn)\.so\.[0-9]+' | tr '\n' ' ')"
	;;
standin)
	g++ -std=c++17 -O2 -ffp-contract=off -fPIC $include -c "$here/standin.cc" -o "$work/standin.o"
	nm --defined-only -g "$work/standin.o" | awk '{print $3}' | sort >"$work/have"
	{
		echo '#include <stdio.h>'
		echo '#include <stdlib.h>'
		for header in cuda.h cudnn.h cublas_v2.h; do functions $header; done | sort -u | comm -23 - "$work/have" |
			sed 's/.*/void &(void) { fputs("CUDA stand-in: & is not expected to be called\\n", stderr); abort(); }/'
	} >"$work/rest.c"
	gcc -w -fno-builtin -fPIC -c "$work/rest.c" -o "$work/rest.o"
	g++ -shared -Wl,-soname,libstandin.so -o "$work/libstandin.so" "$work/standin.o" "$work/rest.o"
	for name in cuda cudnn cublas; do ln -s libstandin.so "$work/lib$name.so"; done
	LD_LIBRARY_PATH=$work REFOCUS_STANDIN=on go test -tags cuda -count=1 -run "${2:-.}" .
	;;
ptx)
	ptx "$here/kernels.ptx"
	;;
*)
	echo "usage: check.sh link|standin|ptx" >&2
	exit 2
	;;
esac
