//! Compiles `src/main.rs` for BPF and hands the object file to the library.
//!
//! Stable Rust cannot compile for BPF, so this looks for a compiler that can: one whose sysroot has `core` prebuilt for
//! `bpfel-unknown-none` (Debian's rustc-web), or a nightly with `rust-src`. Two variables overrule the search:
//! `PORTOLAN_EBPF_OBJECT` names a finished object file, `PORTOLAN_EBPF_RUSTC` names the only compiler to consider.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TARGET: &str = "bpfel-unknown-none";

/// A nightly with LLVM 22, which bpf-linker is built with where Debian packages it; and whichever is installed.
const NIGHTLIES: [&str; 2] = ["nightly-2026-05-20", "nightly"];

const NO_COMPILER: &str = "no Rust compiler that can build for BPF was found; any one of these helps:\n  \
    rustup toolchain install nightly-2026-05-20 --profile minimal --component rust-src\n  \
    apt-get install rustc-web libstd-rust-web-dev-bpf    (Debian)\n  \
    set PORTOLAN_EBPF_RUSTC to such a compiler, or PORTOLAN_EBPF_OBJECT to a finished object file";

const NO_LINKER: &str = "bpf-linker was not found; install it with\n  \
    cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22    \
    (needs LLVM 22: apt-get install llvm-22-dev)";

fn main() {
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        return;
    }
    if let Err(error) = run() {
        // Cargo shows a build script's standard error as it is: no panic message around it.
        eprintln!("\nerror: {error}\n");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    for path in ["build.rs", "Cargo.toml", "src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["PORTOLAN_EBPF_OBJECT", "PORTOLAN_EBPF_RUSTC", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let object = match env::var_os("PORTOLAN_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => build(&out)?,
    };
    let copied = std::fs::copy(&object, out.join("dataplane.o"));
    copied.map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}

/// Builds the program with the first compiler that succeeds, and returns the object file's path.
///
/// More than one may have to be tried: a compiler whose LLVM is newer than the linker's writes bitcode that the linker
/// cannot read.
fn build(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut compilers: Vec<_> = candidates()
        .iter()
        .filter_map(|rustc| Compiler::examine(rustc))
        .collect();
    compilers.sort_by_key(|compiler| !compiler.prebuilt);
    let last = compilers.last().ok_or(NO_COMPILER)?;
    // Beside the outer build's own directories, so that checking and building share one build for BPF.
    let target_dir = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    for compiler in &compilers {
        let mut cargo = compiler.cargo(&target_dir)?;
        let output = cargo.args(["--message-format", "short"]).output();
        let output = output.map_err(|error| format!("cannot run {cargo:?}: {error}"))?;
        if output.status.success() {
            forward_warnings(&output);
            return Ok(target_dir.join(TARGET).join("release/dataplane"));
        }
    }
    // Once more, for the whole message.
    last.cargo(&target_dir)?.status()?;
    let sysroot = last.sysroot.display();
    Err(format!("the eBPF program does not build with the compiler in {sysroot}, see above").into())
}

/// The compilers worth a look.
fn candidates() -> Vec<PathBuf> {
    if let Some(rustc) = env::var_os("PORTOLAN_EBPF_RUSTC") {
        return vec![rustc.into()];
    }
    let nightlies = NIGHTLIES.iter().filter_map(|toolchain| {
        let mut rustup = clean("rustup");
        let output = rustup
            .args(["which", "--toolchain", toolchain, "rustc"])
            .output();
        line(&output.ok()?).map(PathBuf::from)
    });
    let own = env::var_os("RUSTC").map(PathBuf::from);
    nightlies
        .chain(own)
        .chain([PathBuf::from("/usr/bin/rustc")])
        .collect()
}

/// A compiler that can build for BPF.
struct Compiler {
    sysroot: PathBuf,
    /// Whether `core` comes prebuilt; if not, it is built from source, which takes a nightly.
    prebuilt: bool,
}

impl Compiler {
    fn examine(rustc: &Path) -> Option<Self> {
        let sysroot = PathBuf::from(line(
            &clean(rustc).args(["--print", "sysroot"]).output().ok()?,
        )?);
        let rustlib = sysroot.join("lib/rustlib");
        let core = rustlib
            .join(TARGET)
            .join("lib")
            .read_dir()
            .into_iter()
            .flatten()
            .flatten();
        let prebuilt = core
            .into_iter()
            .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"));
        let version = line(&clean(rustc).arg("--version").output().ok()?)?;
        let from_source =
            version.contains("nightly") && rustlib.join("src/rust/library/core").exists();
        (prebuilt || from_source).then_some(Self { sysroot, prebuilt })
    }

    /// The command that builds the program.
    fn cargo(&self, target_dir: &Path) -> Result<Command, Box<dyn Error>> {
        let own = self.sysroot.join("bin/cargo");
        // A prebuilt core needs nothing of cargo, and a distribution's own may be too old for the workspace.
        let mut cargo = if self.prebuilt {
            clean(variable("CARGO")?)
        } else {
            clean(own)
        };
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--bin",
            "dataplane",
            "--features",
            "program",
        ]);
        cargo
            .args(["--target", TARGET, "--target-dir"])
            .arg(target_dir);
        if !self.prebuilt {
            cargo.arg("-Zbuild-std=core");
        }
        cargo.current_dir(variable("CARGO_MANIFEST_DIR")?);
        cargo.env("RUSTC", self.sysroot.join("bin/rustc"));
        // Both packages need one unstable feature each; nothing else may use any.
        cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,dataplane");
        // Empty rather than absent: that overrules a wrapper in a configuration file.
        cargo
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "");
        cargo
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags()?)
            .env("PATH", path_with_linker()?);
        for (name, value) in [
            ("LTO", "fat"),
            ("CODEGEN_UNITS", "1"),
            ("OPT_LEVEL", "3"),
            ("STRIP", "none"),
            ("OVERFLOW_CHECKS", "false"),
        ] {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
        }
        Ok(cargo)
    }
}

/// The nested compiler's flags. The loader needs BTF, and BTF needs debug information. If warnings are errors in the
/// outer build, they are here.
fn rustflags() -> Result<String, Box<dyn Error>> {
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let mut flags = format!("--cfg=bpf_target_arch=\"{architecture}\"");
    flags.push_str(
        "\x1f-Clinker=bpf-linker\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf\x1f-Ctarget-cpu=v3",
    );
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS")
        .unwrap_or_default()
        .replace('\x1f', "");
    if outer.contains("-Dwarnings") || outer.contains("--deny=warnings") {
        flags.push_str("\x1f-Dwarnings");
    }
    Ok(flags)
}

/// The search path, with cargo's own directory of programs at its end, which is where `cargo install` put bpf-linker.
fn path_with_linker() -> Result<std::ffi::OsString, Box<dyn Error>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .collect();
    if !directories
        .iter()
        .any(|directory| directory.join("bpf-linker").is_file())
    {
        return Err(NO_LINKER.into());
    }
    Ok(env::join_paths(directories)?)
}

/// Forwards the nested build's warnings; without that, cargo would swallow them with the rest of a good build's output.
fn forward_warnings(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    for warning in text
        .lines()
        .filter(|line| line.contains(": warning: ") || line.contains(": warning["))
    {
        println!("cargo::warning={warning}");
    }
}

/// A command without the variables by which the outer cargo would confuse a nested one.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    const NAMES: [&str; 13] = [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_BOOTSTRAP",
        "LD_LIBRARY_PATH",
        "TARGET",
        "HOST",
        "PROFILE",
        "DEBUG",
        "OPT_LEVEL",
    ];
    const PREFIXES: [&str; 9] = [
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PKG_",
        "CARGO_UNSTABLE_",
        "CARGO_ENCODED_",
        "DEP_",
    ];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if NAMES.contains(&&*text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env_remove("OUT_DIR");
    command
}

/// The first line a successful command printed.
fn line(output: &Output) -> Option<String> {
    let text = std::str::from_utf8(&output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.lines().next().map(str::to_owned))?
}

/// A variable that cargo always sets.
fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
