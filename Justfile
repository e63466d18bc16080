# Everything a developer does; `just --list` is the map.

# Show this list.
default:
    @just --list

# Reproduce a series or a spec file, for example `just reproduce defocus --profile smoke`.
reproduce series *flags:
    go run ./harness reproduce {{series}} {{flags}}

# Run every test that this machine can run.
test *flags:
    go test ./... {{flags}}

# The check that a change must pass, outside programs included.
ci:
    .ci/run

# Format, vet and lint.
lint:
    gofmt -l .
    go vet ./...
    go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# Build the harness and the plugins into plugins/bin.
build:
    go build -o plugins/bin/ ./harness ./plugins/...

# Regenerate the protocol's Go code and the assembly kernels.
generate:
    go generate ./...
