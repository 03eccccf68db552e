//! The backend: answers everything, and keeps what it is sent.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::received::Received;

/// How requests begin that are only sent to know that what was sent before them has been dealt with.
pub(super) const FENCE: &[u8] = b"GET /fence ";

/// How long a gateway may take to end its connections once its client has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every request ends its connection, so no case meets another one's.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A backend that records. Its thread ends with the process.
#[derive(Debug)]
pub(super) struct Recorder {
    connections: Arc<Mutex<Vec<Shared>>>,
}

type Shared = Arc<Mutex<Connection>>;

/// What came over a connection so far.
#[derive(Debug, Default)]
struct Connection {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Recorder {
    /// Listens at `address`.
    pub(super) fn start(address: &str) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
        let connections = Arc::<Mutex<Vec<Shared>>>::default();
        let recorder = Self {
            connections: connections.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = Shared::default();
                lock(&connections).push(connection.clone());
                std::thread::spawn(move || serve(stream, &connection));
            }
        });
        Ok(recorder)
    }

    /// What has been sent since it was last asked for, once all connections have ended.
    pub(super) fn take(&self) -> Received {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut connections = lock(&self.connections);
            let is_over = |connection: &Shared| lock(connection).is_over;
            if connections.iter().all(is_over) || Instant::now() > deadline {
                let taken = std::mem::take(&mut *connections);
                let all = taken
                    .iter()
                    .map(|connection| lock(connection).bytes.clone());
                return Received::of(all.filter(|bytes| !bytes.starts_with(FENCE)));
            }
            drop(connections);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Keeps what comes over a connection until the other side ends it, and answers the first request.
fn serve(mut stream: TcpStream, connection: &Mutex<Connection>) {
    let mut buffer = [0; 4096];
    let mut is_answered = false;
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut so_far = lock(connection);
        so_far.bytes.extend_from_slice(&buffer[..count]);
        let is_whole = Received::of([&so_far.bytes]).is_whole();
        drop(so_far);
        if is_whole && !is_answered {
            is_answered = true;
            if stream.write_all(ANSWER).is_err() {
                break;
            }
        }
    }
    lock(connection).is_over = true;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
