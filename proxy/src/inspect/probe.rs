//! Asks the daemon whether it is alive.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A daemon on the same node answers in microseconds, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The HTTP status with which `address` answers for `/healthz`.
pub(super) fn health(address: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut line = String::new();
    BufReader::new(io::Read::take(stream, 256)).read_line(&mut line)?;
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[track_caller]
    fn check(answer: &'static str, expected: Option<u16>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("a bound socket");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            // What is left unread when it is closed would be answered by a reset.
            let request = BufReader::new(stream.try_clone().expect("descriptors are left"));
            let mut lines = request.lines().map_while(Result::ok);
            assert!(lines.any(|line| line.is_empty()));
            stream.write_all(answer.as_bytes()).expect("it listens");
        });
        assert_eq!(health(address).ok(), expected);
        server.join().expect("the server ends");
    }

    #[test]
    fn the_status_is_read_and_anything_else_is_an_error() {
        check("HTTP/1.1 200 OK\r\n\r\n", Some(200));
        check("HTTP/1.1 503 Service Unavailable\r\n\r\n", Some(503));
        check("hello\r\n", None);
        check("", None);
    }
}
