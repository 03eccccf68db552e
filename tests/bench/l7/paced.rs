//! Clients that ask at a fixed rate, whatever the answers: how long an answer takes counts from when its request was due,
//! so a gateway that stalls is charged for all that waited.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::process::Place;
use crate::report::Figure;

/// How many clients there are, each with a connection.
pub(crate) const CLIENTS: u32 = 16;

/// Asks for `path` of `host` at `port`, so many times a second for so long; microseconds from due to answered.
pub(crate) fn ask(
    port: u16,
    host: &str,
    path: &str,
    rate: f64,
    length: Duration,
) -> Result<Figure> {
    let interval = Duration::from_secs_f64(f64::from(CLIENTS) / rate);
    all(port, host, path, interval, length).map(Figure::of)
}

/// How many requests a second the same clients get answered if none ever waits. That is less than what clients with more
/// connections get: with fewer answers at a time, each costs more on both sides.
pub(crate) fn saturation(port: u16, host: &str, path: &str, length: Duration) -> Result<f64> {
    let times = all(port, host, path, Duration::ZERO, length)?;
    Ok(times.len() as f64 / length.as_secs_f64())
}

/// What all clients see.
fn all(
    port: u16,
    host: &str,
    path: &str,
    interval: Duration,
    length: Duration,
) -> Result<Vec<f64>> {
    let begin = Instant::now() + Duration::from_millis(20);
    let times: Result<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let first = begin + interval * number / CLIENTS;
                    one(port, host, path, first, interval, begin + length)
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    Ok(times?.into_iter().flatten().collect())
}

/// One client, with a connection that is opened again when it is closed between two requests.
fn one(
    port: u16,
    host: &str,
    path: &str,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> Result<Vec<f64>> {
    Place::Beside.enter()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut connection = None;
    let mut times = Vec::new();
    let mut due = first;
    // What was due in time is asked for even if it is late, or a stall at the end would go unseen.
    while interval.is_zero().then(Instant::now).unwrap_or(due) < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => connect(port)?,
        };
        stream.write_all(request.as_bytes())?;
        let stays = read(&mut stream)?;
        times.push(due.elapsed().as_secs_f64() * 1e6);
        connection = stays.then_some(stream);
        due += interval;
    }
    Ok(times)
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Reads an answer; whether the connection stays open.
fn read(stream: &mut TcpStream) -> Result<bool> {
    let mut answer = [0; 8192];
    let mut length = 0;
    loop {
        let count = stream.read(&mut answer[length..]).context("an answer")?;
        ensure!(count > 0, "the connection ended before its answer");
        length += count;
        let text = String::from_utf8_lossy(&answer[..length]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        ensure!(head.starts_with("HTTP/1.1 200"), "answered {head}");
        let head = head.to_ascii_lowercase();
        let (_, rest) = head
            .split_once("content-length: ")
            .context("an answer without a length")?;
        let expected: usize = rest.lines().next().unwrap_or_default().trim().parse()?;
        if body.len() >= expected {
            return Ok(!head.contains("connection: close"));
        }
    }
}
