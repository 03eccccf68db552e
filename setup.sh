#!/usr/bin/env bash
# Installs what building (and, with `test` or `bench`, testing or measuring) Portolan needs and this machine lacks; says what and why.
# Running it again finds everything in place and does nothing.
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
    need_python_packages kubernetes
    if has apt-get && ! has docker-registry; then install "tests pull an image from it" docker-registry; fi
    has kubectl || fail "tests run the real kubectl, which is missing: see https://kubernetes.io/docs/tasks/tools/"
    need_current_kubectl
}

# What the dataplane is measured against.
need_bench_tools() {
    has ip || install "benchmarks make network namespaces" iproute2
    has nft || install "benchmarks install kube-proxy's nftables rules" nftables
    has iptables-restore || install "benchmarks install kube-proxy's iptables rules" iptables
}

# need_python_packages NAME...: in an environment of their own under target/tools, not installed.
need_python_packages() {
    local python=$PWD/target/tools/python; local wanted="$*"
    if [ "$(cat "$python/packages" 2>/dev/null)" = "$wanted" ]; then return; fi
    python3 -c 'import venv, ensurepip' 2>/dev/null || install "tests run clients from PyPI" python3 python3-venv
    say "fetching $wanted into $python (tests run these clients from PyPI)"
    python3 -m venv --clear "$python"
    "$python/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" >"$python/packages"
}

# A kubectl of this year beside the machine's own: unpacked under target/tools, not installed.
need_current_kubectl() {
    local tools=$PWD/target/tools
    if [ -x "$tools/kubectl" ] || ! has apt-get; then return; fi
    say "fetching a current kubectl into $tools (tests run it beside the machine's own)"
    local dir=$tools/apt; mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main' >"$dir/sources.list"
    local apt=(apt-get -qq -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$dir/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$dir/cache" -o APT::Sandbox::User=root)
    as_root "${apt[@]}" update
    (cd "$dir" && as_root "${apt[@]}" download kubectl && dpkg -x kubectl_*.deb . && mv usr/bin/kubectl "$tools/kubectl")
    as_root rm -rf "$dir"
}

need_rust
need_basics
need_bpf_compiler
need_bpf_linker
if [ "${1:-}" = test ]; then need_test_tools; fi
if [ "${1:-}" = bench ]; then need_bench_tools; fi
