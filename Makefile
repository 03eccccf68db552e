# The commands of README.md.

BIN := $(abspath target/release)
DIST := $(abspath target/dist)
# Tests run checked programs: an overflow or a broken assertion ends them instead of passing unseen.
CHECKED := $(abspath target/debug)
# Namespaces, cgroups and eBPF need root; building does not.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
# Tests that need a kernel run as root; this is how cargo calls them.
RUNNER := CARGO_TARGET_$(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER
STATIC_SAMPLE := --package sample --bin serve-hostname -- -C target-feature=+crt-static
export PORTOLAN_BIN := $(BIN)

.PHONY: setup build release up down test bench test-kernels fuzz

# Installs what is missing, and says what and why.
setup:
	./setup.sh

# The sample runs in an image that holds nothing else, so it is linked statically.
build: setup
	cargo build --release --locked
	cargo rustc --release --locked $(STATIC_SAMPLE)

# The programs as they are shipped, in target/dist: those of `build`, and the gateway built for what it does most.
release: build
	./setup.sh bench
	./setup.sh release
	cargo build --release --locked --package measure
	SUDO="$(SUDO)" ingress/optimise $(DIST)
	cp $(addprefix $(BIN)/,portolan portolan-proxy serve-hostname) $(DIST)

up: build
	$(SUDO) $(BIN)/portolan up

down:
	$(SUDO) $(BIN)/portolan down

# Everything, from unit tests to end-to-end tests in network namespaces. The end-to-end tests come last: they use the
# programs built before.
test: export PORTOLAN_BIN := $(CHECKED)
test: export $(RUNNER) := $(or $(SUDO),env)
test: setup
	./setup.sh test
	cargo test --locked --workspace --exclude tests
	cargo build --locked
	cargo rustc --locked $(STATIC_SAMPLE)
	cargo test --locked --package tests

# The packet and connection tests in the kernels of Debian 12, the oldest one that is supported among them, under qemu.
test-kernels: setup
	./setup.sh kernels
	tests/kernels/run

# What reads hostile input in the gateway, under libFuzzer. `make fuzz FUZZ=strict FUZZ_SECONDS=3600` runs one target for longer.
fuzz: setup
	./setup.sh fuzz
	ingress/fuzz/run $(FUZZ)

# Start time and memory of a whole cluster, the dataplane against kube-proxy's rules, and the gateway against others, all of them
# as released. `make bench BENCH="l4 clusterip"` measures one part, and `make bench BENCH=--help` says which there are. Without a
# release, target/release/measure measures what `build` has left.
BENCH ?= --json target/bench.json
bench: export PORTOLAN_BIN := $(DIST)
bench: release
	$(SUDO) $(BIN)/measure $(BENCH)
