//! The operator's tools: what the pinned maps hold, as text for people or as one JSON document for machines.
//!
//! Everything is read from the kernel, through descriptors that cannot write, so the tools work beside a daemon, without
//! one, and when one is dead. Each view is a file: it reads what it shows into plain values ([`View`]), which are printed
//! one way or the other.

mod backends;
mod clock;
mod conntrack;
mod drops;
mod dump;
mod filter;
mod probe;
mod programs;
mod services;
mod status;
mod table;
mod text;
mod trace;

use std::error::Error as _;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{maps, pinned};

pub use backends::BackendsArgs;
pub use conntrack::ConntrackArgs;
pub use drops::DropsArgs;
pub use dump::dump;
pub use filter::ServiceFilter;
pub use services::ServicesArgs;
pub use status::StatusArgs;
pub use trace::{Place, TraceArgs, Transport};

/// The maps could not be read.
const FAILED: u8 = 1;
/// Nothing is pinned that this build could read.
const ABSENT: u8 = 3;
/// What was asked about is not in order.
const WANTING: u8 = 4;

/// What to look at.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Show whether the dataplane is in order: programs, maps, settings, and what is missing.
    #[command(after_help = examples(&[
        ("portolan-proxy status", "exit code 4 if anything is missing"),
    ]))]
    Status(StatusArgs),
    /// List Services: frontends, policies, options, numbers of backends, and counters.
    #[command(after_help = examples(&[
        ("portolan-proxy services", "all of them"),
        ("portolan-proxy services kube-system/kube-dns", "all ports of one"),
        ("portolan-proxy services default/web:http -o json", "one port, for a script"),
    ]))]
    Services(ServicesArgs),
    /// List backends, whether new connections get them or not.
    #[command(after_help = examples(&[
        ("portolan-proxy backends", "all of them"),
        ("portolan-proxy backends --service default/web", "those of one Service"),
    ]))]
    Backends(BackendsArgs),
    /// List tracked connections, those used last first.
    #[command(after_help = examples(&[
        ("portolan-proxy conntrack --service default/web", "those of one Service"),
        ("portolan-proxy conntrack --client 203.0.113.9 --limit 10", "a client's last ten"),
    ]))]
    Conntrack(ConntrackArgs),
    /// Show what was dropped or refused: counters by reason with what to do, and the last drops one by one.
    #[command(after_help = examples(&[
        ("portolan-proxy drops", "counters and the last drops"),
        ("portolan-proxy drops --watch", "each drop as it happens"),
    ]))]
    Drops(DropsArgs),
    /// Tell what would become of a connection and why, without sending anything.
    ///
    /// Goes through the steps of the kernel's programs with what the maps hold now: the hook, the rule, source ranges,
    /// traffic policy, affinity, the backend, and why it is none of the others. Routes and neighbours are not looked at.
    #[command(after_help = examples(&[
        ("portolan-proxy trace 203.0.113.9:40000 192.0.2.1:30080", "a client outside"),
        ("portolan-proxy trace 10.244.1.7:1 10.96.0.10:53 \\", ""),
        ("    --protocol udp --from pod", "a pod's query"),
    ]))]
    Trace(TraceArgs),
}

/// What all commands have.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// The directory that the daemon pins its maps under.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/portolan")]
    pub bpf_root: PathBuf,

    /// A table for people, or one JSON document for machines, whose field names stay.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "table"
    )]
    pub output: Output,
}

/// How to print.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Aligned columns.
    Table,
    /// JSON.
    Json,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The maps cannot be read.
    #[error(transparent)]
    Pinned(#[from] pinned::Error),
    /// The output takes no more.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// Something to show, as JSON by its fields and as text by [`View::write`].
trait View: Serialize {
    /// Writes it as text.
    fn write(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Whether it is what was hoped for, which the exit code tells.
    fn is_in_order(&self) -> bool {
        true
    }
}

/// Runs `command` to its end.
pub fn run(command: &Command) -> ExitCode {
    let result = match command {
        Command::Status(args) => show(&args.common, status::look(args)),
        Command::Services(args) => show(&args.common, services::look(args)),
        Command::Backends(args) => show(&args.common, backends::look(args)),
        Command::Conntrack(args) => show(&args.common, conntrack::look(args)),
        Command::Drops(args) if args.watch => {
            drops::watch(args, |drop| print(&args.common, drop)).map(|()| true)
        }
        Command::Drops(args) => show(&args.common, drops::look(args)),
        Command::Trace(args) => show(&args.common, trace::look(args)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(WANTING),
        Err(error) => fail(&error),
    }
}

/// Prints what was `seen`; whether it is in order.
fn show<V: View>(common: &Common, seen: Result<V, pinned::Error>) -> Result<bool, Error> {
    let view = seen?;
    print(common, &view)?;
    Ok(view.is_in_order())
}

fn print<V: View>(common: &Common, view: &V) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match common.output {
        Output::Table => view.write(&mut out),
        Output::Json => serde_json::to_writer(&mut out, view)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out)),
    };
    written.and_then(|()| out.flush()).map_err(Error::Output)
}

/// Tells people why, and scripts by the code.
fn fail(error: &Error) -> ExitCode {
    // Whoever reads the output has seen enough, as `head` has.
    if matches!(error, Error::Output(source) if source.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("portolan-proxy: {}", message(error));
    ExitCode::from(match error {
        Error::Pinned(pinned::Error::NothingPinned { .. } | pinned::Error::OtherLayout { .. }) => {
            ABSENT
        }
        _ => FAILED,
    })
}

/// What went wrong and why, down to the first cause, and what most likely helps.
fn message(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    if is_denied(error) {
        message.push_str(" (run as root)");
    }
    message
}

fn is_denied(error: &Error) -> bool {
    match error {
        Error::Pinned(
            pinned::Error::Read { source, .. } | pinned::Error::Maps(maps::Error { source, .. }),
        ) => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// The end of a command's help.
fn examples(examples: &[(&str, &str)]) -> String {
    let mut text = "Examples:\n".to_owned();
    for (command, what) in examples {
        text.push_str(&format!("  {command:<58} {what}\n"));
    }
    text.push_str(
        "\nExit codes: 0 done; 1 the maps cannot be read; 2 wrong usage; 3 no dataplane is pinned \
         there; 4 what was asked about is not there or not in order",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let root = PathBuf::from("/nowhere");
        let denied = pinned::Error::Read {
            path: root.clone(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(
            message(&denied.into()),
            "cannot read /nowhere: permission denied (run as root)"
        );
        let error = pinned::Pinned::open(&root).expect_err("nothing is pinned there");
        assert!(
            matches!(error, pinned::Error::NothingPinned { .. }),
            "{error}"
        );
    }
}
