//! serve-hostname: the sample application, a static server that answers its pod's name.
//!
//! `serve-hostname [PORT]` (or `PORT=...`; 9376 by default) answers on one port, for TCP and UDP, on IPv4 and IPv6:
//! - `GET /` and any other path: the pod's name,
//! - `GET /healthz`: 200 as long as the process lives,
//! - `GET /ready`: 200 or 503; `POST /ready/false` and `POST /ready/true` flip it,
//! - a UDP datagram: the pod's name.
//!
//! SIGTERM stops it as a server behind a Service should stop: it goes on accepting for a second, because nodes learn only
//! after the signal that the pod is going, answers with `Connection: close`, and ends when nothing is in flight.
//! It uses a thread per connection and no async runtime, so that the static binary stays small.

mod http;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

const DEFAULT_PORT: u16 = 9376;
/// How long new connections are taken after SIGTERM.
const LAME_DUCK: Duration = Duration::from_secs(1);
/// How long requests in flight may take after SIGTERM; below the 30 s a pod gets by default.
const DRAIN: Duration = Duration::from_secs(10);

/// What all connections share.
struct Server {
    name: String,
    ready: AtomicBool,
    stopping: AtomicBool,
    busy: AtomicUsize,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve-hostname: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let port = port()?;
    // Blocked before any thread starts: as process 1 of a pod, an unblocked SIGTERM without a handler would be ignored.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals
        .thread_block()
        .map_err(|e| format!("cannot block SIGTERM: {e}"))?;

    let server = Arc::new(Server {
        name: name(),
        ready: AtomicBool::new(true),
        stopping: AtomicBool::new(false),
        busy: AtomicUsize::new(0),
    });
    let listener = bind(TcpListener::bind, port)
        .map_err(|e| format!("cannot listen on TCP port {port}: {e}"))?;
    let socket = bind(UdpSocket::bind, port)
        .map_err(|e| format!("cannot listen on UDP port {port}: {e}"))?;
    println!("{} serves on port {port}", server.name);

    let accepting = Arc::clone(&server);
    thread::spawn(move || accept(&listener, &accepting));
    let echoing = Arc::clone(&server);
    thread::spawn(move || echo(&socket, &echoing.name));

    let signal = signals
        .wait()
        .map_err(|e| format!("cannot wait for a signal: {e}"))?;
    println!("{signal}: stopping");
    drain(&server);
    Ok(())
}

fn port() -> Result<u16, String> {
    let Some(text) = std::env::args()
        .nth(1)
        .or_else(|| std::env::var("PORT").ok())
    else {
        return Ok(DEFAULT_PORT);
    };
    text.parse().map_err(|_| format!("not a port: {text:?}"))
}

/// The pod's name: `HOSTNAME` if set, else what the kernel says.
fn name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| {
        nix::unistd::gethostname().map_or_else(
            |_| "unknown".into(),
            |name| name.to_string_lossy().into_owned(),
        )
    })
}

/// Binds the wildcard address of both families, or of IPv4 where the kernel has no IPv6.
fn bind<T>(bind: fn((&'static str, u16)) -> std::io::Result<T>, port: u16) -> std::io::Result<T> {
    bind(("::", port)).or_else(|_| bind(("0.0.0.0", port)))
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let server = Arc::clone(server);
                thread::spawn(move || serve(stream, &server));
            }
            // Out of descriptors, most likely: give connections time to end.
            Err(error) => {
                eprintln!("accept: {error}");
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn serve(stream: TcpStream, server: &Server) {
    if let Err(error) = http::serve(stream, server) {
        eprintln!("connection: {error}");
    }
}

fn echo(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        let sent = socket
            .recv_from(&mut buffer)
            .and_then(|(_, peer)| socket.send_to(name.as_bytes(), peer));
        if let Err(error) = sent {
            eprintln!("udp: {error}");
        }
    }
}

/// Serves what still comes, then waits until no request is in flight, at most [`DRAIN`].
fn drain(server: &Server) {
    server.stopping.store(true, Ordering::Release);
    thread::sleep(LAME_DUCK);
    let deadline = Instant::now() + DRAIN;
    while server.busy.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}
