//! What gateways take of memory: empty, with many routes, and for each client that is connected and says nothing.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::peers::{self, Kind, Peer};
use super::place::{HOST, Machine, ingress, status};
use super::process::Process;
use crate::report::{Cell, Table};

const MIB: f64 = 1024.0 * 1024.0;
const NONE: u16 = 8300;
const ROUTES: u16 = 8310;
/// How long connections are idle before they are counted.
const IDLE: Duration = Duration::from_secs(4);

pub(crate) fn measure(machine: &Machine, quick: bool) -> Result<Vec<Table>> {
    let (connections, hosts) = if quick { (300, 100) } else { (3000, 1000) };
    Ok(vec![idle(machine, connections)?, resident(machine, hosts)?])
}

fn idle(machine: &Machine, count: usize) -> Result<Table> {
    let mut table = Table::new(
        "Memory for an idle connection",
        format!(
            "`measure l7 memory`: resident memory before and while {count} clients are connected over HTTP/1.1, {} s after \
             each has had an answer.",
            IDLE.as_secs()
        ),
        &["gateway", "before, MiB", "bytes a connection"],
    );
    for kind in Kind::ALL {
        let Some(peer) = Peer::start(kind, &machine.files)? else {
            continue;
        };
        // What the first connections make it take stays.
        drop(connect(peer.http, 100)?);
        let before = peer.process.resident()?;
        let clients = connect(peer.http, count)?;
        let begun = Instant::now();
        while begun.elapsed() < IDLE {
            std::thread::sleep(Duration::from_millis(100));
        }
        let after = peer.process.resident()?;
        drop(clients);
        table.add(vec![
            peer.name().into(),
            Cell::Number(before / MIB, 1),
            Cell::Number((after - before) / count as f64, 0),
        ]);
    }
    Ok(table)
}

/// Clients that have asked once.
fn connect(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
            let mut answer = [0; 8192];
            let count = stream.read(&mut answer)?;
            ensure!(answer[..count].starts_with(b"HTTP/1.1 200"), "a bad answer");
            Ok(stream)
        })
        .collect()
}

fn resident(machine: &Machine, hosts: usize) -> Result<Table> {
    let paths = ["/", "/api", "/api/v1", "/static", "/admin"];
    let mut table = Table::new(
        "Memory of the gateway",
        "`measure l7 memory`: resident memory of Portolan's gateway.",
        &["routes", "MiB"],
    );
    let empty = start(machine, "none", NONE, 404, HOST)?;
    table.add(vec!["0".into(), Cell::Number(empty.resident()? / MIB, 1)]);
    drop(empty);
    let host = |number| format!("memory-{number}.bench.example");
    let all = (0..hosts)
        .map(|number| ingress(&format!("memory-{number}"), "none", &host(number), &paths))
        .collect::<Result<Vec<_>>>()?;
    machine.create_all(machine.api(), all)?;
    let full = start(machine, "none", ROUTES, 200, &host(hosts - 1))?;
    table.add(vec![
        format!("{}", hosts * paths.len()).into(),
        Cell::Number(full.resident()? / MIB, 1),
    ]);
    Ok(table)
}

/// A gateway of the class, once it answers for the host with this status.
fn start(machine: &Machine, class: &str, port: u16, expected: u16, host: &str) -> Result<Process> {
    let controller = format!("portolan.dev/{class}");
    let command = peers::gateway(&machine.files, &controller, port, &[]);
    let name = format!("{class}-{port}");
    let mut process = Process::start(command, &name, &machine.files.directory)?;
    process.wait(|| status(port, host, "/") == Some(expected))?;
    Ok(process)
}
