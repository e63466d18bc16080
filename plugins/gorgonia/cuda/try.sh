#!/bin/sh
# Tries the Gorgonia backend on a GPU and writes what it saw into dist/gpu:
#
#   try.sh DEVICE [flags of bench train]
#
# It goes on after a failure, and ends with status 1 if there was one.
set -u
device=${1:-cuda:0}
[ $# -gt 0 ] && shift
out=dist/gpu
mkdir -p "$out"
refocus=plugins/bin/refocus
status=0

# try NAME COMMAND… runs a command, shows what it says and keeps it.
try() {
	name=$1
	shift
	echo "== $name: $*"
	"$@" >"$out/$name.txt" 2>&1 || { status=1; echo "FAILED"; }
	cat "$out/$name.txt"
}

try info $refocus backends info gorgonia --allow-unlocked
try smi nvidia-smi
try bits go test -count=1 -v -run '^TestGPU$' ./plugins/gorgonia/internal/smoke
grep -q -- '--- PASS' "$out/bits.txt" || { status=1; echo "FAILED: there is no GPU"; }
try conformance $refocus backends verify gorgonia --allow-unlocked --device "$device"
try crosscheck $refocus crosscheck --backend gorgonia --allow-unlocked --device "$device" --out "$out/store"
for size in 64 256 512; do
	try "speed-$size" $refocus bench train --backend gorgonia --allow-unlocked --device "$device" --width 64 --size $size --batch 16 "$@"
	if command -v refocus-backend-torch >/dev/null; then
		for precision in float32 tf32 mixed; do
			try "torch-$size-$precision" $refocus bench train --backend torch --allow-unlocked --device "$device" --width 64 --size $size --batch 16 --precision $precision "$@"
		done
	fi
done
[ $status -eq 0 ] || echo "something failed: see $out"
exit $status
