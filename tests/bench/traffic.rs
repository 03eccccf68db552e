//! A TCP client and its server: what a connection costs to make, and what it carries.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use harness::Namespace;

/// What a connection is for: its first byte.
const ECHO: u8 = b'E';
const SINK: u8 = b'S';

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Connections made before the client waits until the server has accepted all of them.
const BATCH: u32 = 500;
/// Bytes written at once.
const BLOCK: usize = 1 << 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `connect` and `close`, a second of processor time.
    Connect,
    /// `connect`, one byte there and back, `close`, a second of processor time.
    Request,
    /// One byte there and back on an open connection, a second of processor time.
    Exchange,
    /// Gigabits a second on an open connection.
    Throughput,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::Connect,
        Self::Request,
        Self::Exchange,
        Self::Throughput,
    ];

    /// Whether client and server share a processor, so that nothing is spent on waking another one. Throughput needs both.
    const fn on_one_processor(self) -> bool {
        !matches!(self, Self::Throughput)
    }
}

/// Serves at `port` of all addresses in the namespace, one connection after another, until the process ends.
pub(crate) fn serve(namespace: &Namespace, port: u16) -> Result<()> {
    let listener = namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    // Again, for more than the library's 128: when those are used up, a client waits a second.
    listen(&listener.as_fd(), Backlog::new(BACKLOG)?)?;
    let [near, far] = processors()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that resets its connection is done with it.
            answer(stream, near, far).ok();
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, near: usize, far: usize) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK];
    if stream.read(&mut block[..1])? == 0 {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let is_sink = block[0] == SINK;
    pin(if is_sink { far } else { near })?;
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            _ if is_sink => {}
            length => stream.write_all(&block[..length])?,
        }
    }
}

/// Measures for about `time`; to be called in the client's namespace and cgroup, on a thread of its own.
pub(crate) fn measure(kind: Kind, server: SocketAddr, time: Duration) -> Result<f64> {
    let [near, _] = processors()?;
    pin(near)?;
    // The server goes to its processor when it hears what the connection is for.
    let mut stream = open(server, if kind.on_one_processor() { ECHO } else { SINK })?;
    match kind {
        Kind::Connect => {
            drop(stream);
            connections(server, time)
        }
        Kind::Request => {
            drop(stream);
            requests(server, time)
        }
        Kind::Exchange => exchanges(&mut stream, time),
        Kind::Throughput => throughput(&mut stream, time),
    }
}

fn open(server: SocketAddr, purpose: u8) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[purpose])?;
    if purpose == ECHO {
        exchange(&mut stream)?;
    }
    Ok(stream)
}

/// Closes by a reset, so that no port waits for stray packets.
fn reset(stream: TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&stream, sockopt::Linger, &linger)?)
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    Ok(stream.read_exact(&mut [0])?)
}

fn connections(server: SocketAddr, time: Duration) -> Result<f64> {
    repeat(time, || {
        for _ in 0..BATCH {
            reset(TcpStream::connect(server)?)?;
        }
        drop(open(server, ECHO)?);
        Ok(BATCH)
    })
}

fn requests(server: SocketAddr, time: Duration) -> Result<f64> {
    repeat(time, || {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&[ECHO, b'x'])?;
        stream.read_exact(&mut [0])?;
        reset(stream)?;
        Ok(1)
    })
}

fn exchanges(stream: &mut TcpStream, time: Duration) -> Result<f64> {
    repeat(time, || {
        exchange(stream)?;
        Ok(1)
    })
}

/// How often something is done in a second of processor time, both sides' together.
fn repeat(time: Duration, mut work: impl FnMut() -> Result<u32>) -> Result<f64> {
    let (begun, used) = (Instant::now(), processor_time()?);
    let mut count = 0;
    while begun.elapsed() < time {
        count += work()?;
    }
    Ok(f64::from(count) / (processor_time()? - used).as_secs_f64())
}

/// What this process has used so far: client and server are two of its threads, and the network works on their account.
fn processor_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn throughput(stream: &mut TcpStream, time: Duration) -> Result<f64> {
    let block = vec![0; BLOCK];
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        match stream.write(&block) {
            Ok(written) => bytes += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes as f64 * 8.0 / 1e9 / begun.elapsed().as_secs_f64())
}

/// Two processors that this process may use, or one of them twice.
pub(crate) fn processors() -> Result<[usize; 2]> {
    // A thread may have been pinned; the process's first one never is.
    let allowed = sched_getaffinity(Pid::this())?;
    let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let near = usable.next().context("a processor")?;
    Ok([near, usable.next().unwrap_or(near)])
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin(processor: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
