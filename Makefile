# The commands of README.md.

BIN := $(abspath target/release)
# Namespaces, cgroups and eBPF need root; building does not.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
export PORTOLAN_BIN := $(BIN)

.PHONY: setup build up down test bench

# Installs what is missing, and says what and why.
setup:
	./setup.sh

# The sample runs in an image that holds nothing else, so it is linked statically.
build: setup
	cargo build --release --locked
	cargo rustc --release --locked --package sample --bin serve-hostname -- -C target-feature=+crt-static

up: build
	$(SUDO) $(BIN)/portolan up

down:
	$(SUDO) $(BIN)/portolan down

# Everything, from unit tests to end-to-end tests in network namespaces.
test: build
	./setup.sh test
	CARGO_TARGET_$(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER="$(or $(SUDO),env)" \
		cargo test --workspace --locked

# Start time and memory of a whole cluster.
bench: build
	cargo build --release --locked --package tests --bin measure
	$(SUDO) $(BIN)/measure
