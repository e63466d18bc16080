# Everything a developer does; `just --list` is the map.

# Show this list.
default:
    @just --list

# Reproduce a series or a spec file, for example `just reproduce defocus --profile smoke`.
reproduce series *flags:
    go run ./harness reproduce {{series}} {{flags}}

# Reproduce all four series in the smoke profile, then check the store: some minutes.
smoke *flags: build
    for series in defocus noise structure baseline; do plugins/bin/refocus reproduce $series --profile smoke {{flags}} || exit; done
    plugins/bin/refocus verify {{flags}}

# Run every test that this machine can run.
test *flags:
    go test ./... {{flags}}

# Take pictures of the workbench over a store with a finished study, in Chromium.
screenshots store="artifacts" folder="artifacts/example":
    REFOCUS_PEERS=require REFOCUS_SCREENSHOT_STORE={{absolute_path(store)}} REFOCUS_SCREENSHOT={{absolute_path(folder)}} go test ./harness -run '^TestScreenshots$' -count 1

# Fuzz one target for a while, for example `just fuzz ./harness/onnx FuzzUnmarshal -fuzztime 5m`.
fuzz package target *flags="-fuzztime 1m":
    go test {{package}} -run '^$' -fuzz '^{{target}}$' -fuzzminimizetime 10x {{flags}}

# The check that a change must pass, outside programs included.
ci:
    .ci/run

# Format, vet and lint.
lint:
    gofmt -l . | { ! grep .; }
    go vet ./...
    go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -checks inherit,-ST1005 ./...

# Build the harness and the backend plugins into plugins/bin.
build:
    go build -o plugins/bin/refocus ./harness
    go build -o plugins/bin/ ./plugins/cpu/cmd/... ./plugins/gorgonia/cmd/...

# Make what a version is published as, in dist/release/VERSION; needs a clean checkout.
release version *flags:
    go run ./harness/release {{version}} {{flags}}

# Regenerate the protocol's Go code and the assembly kernels.
generate:
    go generate ./...

# Regenerate the protocol's Python code; needs grpcio-tools 1.51, whose code old and new protobuf read.
proto-python:
    cd plugins/torch && python3 -m grpc_tools.protoc -Irefocus_torch=../../harness/backend/proto --python_out=. --grpc_python_out=. refocus_torch/backend.proto

# Speed and memory next to PyTorch, ONNX Runtime and OpenCV; `just bench --help` says more.
bench *flags:
    go build -o plugins/bin/refocus ./harness
    /usr/bin/python3 plugins/cpu/bench/compare.py {{flags}}

# Keep the Go benchmarks' results under a name, six runs of each, for bench-compare.
bench-go name packages="./..." *flags="-bench .":
    mkdir -p dist/bench
    go test -run '^$' -count 6 {{flags}} {{packages}} >dist/bench/{{name}}.txt; status=$?; cat dist/bench/{{name}}.txt; exit $status

# What has changed between two results of bench-go, by benchstat.
bench-compare old new:
    go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da dist/bench/{{old}}.txt dist/bench/{{new}}.txt

# Where a training step's time goes, layer by layer, for example `just layers --width 16`.
layers *flags:
    go run ./harness bench train --layers {{flags}}

# Certify a backend against another, by default gorgonia against cpu.
crosscheck backend="gorgonia" against="cpu" *flags: build
    plugins/bin/refocus crosscheck --backend {{backend}} --against {{against}} --allow-unlocked {{flags}}

# Verify and cross-check cpu, gorgonia and torch in every precision; torch's executable has to be on $PATH (`pip install ./plugins/torch`).
scoreboard *flags: build
    plugins/bin/refocus backends scoreboard cpu gorgonia torch --profile smoke --allow-unlocked --to artifacts/example {{flags}}
    for name in gorgonia torch; do cp artifacts/reports/crosscheck-$name-cpu-defocus-smoke/certificate.* artifacts/example/crosscheck/$name/; done
    cp artifacts/reports/crosscheck-torch-bfloat16-convergence-cpu-defocus-smoke/certificate.* artifacts/example/crosscheck/torch-bfloat16-convergence/

# Compile the Gorgonia backend's GPU kernels with NVIDIA's compilers from PyPI, and assemble them for every GPU since Pascal.
kernels:
    python3 plugins/gorgonia/cuda/compile.py

# Try the Gorgonia backend on the GPU of this machine: conformance, bits, cross-check, speed beside PyTorch's where that plugin is. What it saw is in dist/gpu.
gpu device="cuda:0" *flags: build
    plugins/gorgonia/cuda/try.sh {{device}} {{flags}}

# Compare the image simulation with abTEM (from PyPI), in a folder that is kept.
abtem folder="dist/abtem":
    go run ./harness/hrtem/abtem {{folder}}
    python3 -m venv {{folder}}/venv && {{folder}}/venv/bin/pip install -q abtem pyfftw
    {{folder}}/venv/bin/python harness/hrtem/abtem/compare.py {{folder}}

# Test an exported model package with bioimageio.core (from PyPI), for example `just bioimageio model.zip`.
bioimageio package venv="dist/bioimageio":
    python3 -m venv {{venv}} && {{venv}}/bin/pip install -q 'bioimageio.core[onnx]==0.11.0' 'pydantic<2.13'
    {{venv}}/bin/bioimageio test {{package}}
