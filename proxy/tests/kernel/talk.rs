//! Servers and clients.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crate::node::Place;

/// Answers each connection and each datagram with the address it reached.
pub(crate) fn serve(address: &'static str) {
    let tcp = TcpListener::bind(address).unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            stream.unwrap().write_all(address.as_bytes()).unwrap();
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            udp.send_to(address.as_bytes(), client).unwrap();
        }
    });
}

/// Who answers at `address` over TCP. The client must see the address it asked for.
pub(crate) fn ask(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    assert_eq!(stream.peer_addr()?, address);
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Who answers at `address` over UDP from an unconnected socket, and from where.
pub(crate) fn ask_datagram(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(b"who", address)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, address);
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time");
        thread::sleep(Duration::from_millis(10));
    }
}

/// All who answer within `attempts`.
pub(crate) fn answers(
    address: &str,
    ask: fn(&str) -> io::Result<String>,
    attempts: usize,
) -> BTreeSet<String> {
    (0..attempts).map(|_| ask(address).unwrap()).collect()
}

pub(crate) fn both(backends: &[&str]) -> BTreeSet<String> {
    backends.iter().map(ToString::to_string).collect()
}

/// Does `work` out of the node's cgroup: the sockets made meanwhile are those of strangers, whose calls no program sees.
pub(crate) fn as_stranger<R>(place: &Place, work: impl FnOnce() -> R) -> R {
    let join = |cgroup: &Path| fs::write(cgroup.join("cgroup.procs"), process::id().to_string());
    join(&place.home).unwrap();
    let result = work();
    join(&place.cgroup).unwrap();
    result
}
