//! Just enough HTTP/1.1 for the sample: one connection, requests one after the other, bodies skipped by Content-Length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Server;

const MAX_HEAD: u64 = 16 * 1024;
const IDLE: Duration = Duration::from_secs(75);

struct Request {
    method: String,
    path: String,
    body: u64,
    close: bool,
}

/// Answers requests until the client or SIGTERM ends the connection.
pub(crate) fn serve(stream: TcpStream, server: &Server) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        // An idle or reset connection is a normal end.
        let Ok(Some(request)) = read_request(&mut reader) else {
            return Ok(());
        };
        server.busy.fetch_add(1, Ordering::AcqRel);
        let answered = answer(&mut reader, &mut writer, &request, server);
        server.busy.fetch_sub(1, Ordering::AcqRel);
        if !answered? {
            return Ok(());
        }
    }
}

/// Answers one request; true if the connection may carry another one.
fn answer(
    reader: &mut impl Read,
    writer: &mut impl Write,
    request: &Request,
    server: &Server,
) -> io::Result<bool> {
    io::copy(&mut reader.take(request.body), &mut io::sink())?;
    let close = request.close || server.stopping.load(Ordering::Acquire);
    let (status, body) = route(request, server);
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    let body = if request.method == "HEAD" { "" } else { body };
    writer.write_all(format!("{head}{body}").as_bytes())?;
    Ok(!close)
}

fn route<'a>(request: &Request, server: &'a Server) -> (&'static str, &'a str) {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST" | "PUT", "/ready/true") => flip(server, true),
        ("POST" | "PUT", "/ready/false") => flip(server, false),
        (_, "/healthz") => ("200 OK", "ok\n"),
        (_, "/ready") if !server.ready.load(Ordering::Acquire) => {
            ("503 Service Unavailable", "not ready\n")
        }
        (_, "/ready") => ("200 OK", "ready\n"),
        _ => ("200 OK", &server.name),
    }
}

fn flip(server: &Server, ready: bool) -> (&'static str, &'static str) {
    server.ready.store(ready, Ordering::Release);
    (
        "200 OK",
        if ready {
            "now ready\n"
        } else {
            "now not ready\n"
        },
    )
}

/// The next request, or none at the connection's end or when it is not HTTP.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let path = target.split('?').next().unwrap_or("/").to_owned();
    let mut request = Request {
        method: method.to_owned(),
        path,
        body: 0,
        close: version == "HTTP/1.0",
    };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        if !read_header(line, &mut request) {
            return Ok(None);
        }
    }
}

/// Notes what matters of one header line; false if the request cannot be framed.
fn read_header(line: &str, request: &mut Request) -> bool {
    let Some((name, value)) = line.split_once(':') else {
        return false;
    };
    let value = value.trim();
    match name.to_ascii_lowercase().as_str() {
        "content-length" => value.parse().map(|length| request.body = length).is_ok(),
        "transfer-encoding" => false,
        "connection" => {
            request.close |= value.eq_ignore_ascii_case("close");
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    fn check(input: &str, expected: &str) {
        let server = Server {
            name: "pod-1".into(),
            ready: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        };
        let mut reader = BufReader::new(input.as_bytes());
        let mut output = Vec::new();
        while let Ok(Some(request)) = read_request(&mut reader) {
            if !answer(&mut reader, &mut output, &request, &server).expect("writing to memory") {
                break;
            }
        }
        let statuses: Vec<String> = String::from_utf8_lossy(&output)
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|answer| {
                let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim();
                format!("{} {body}", &answer[..3])
            })
            .collect();
        assert_eq!(statuses.join(", "), expected, "{input:?}");
    }

    #[test]
    fn answers_requests_of_one_connection_in_order() {
        check(
            "GET / HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
            "200 pod-1, 200 ok",
        );
        check(
            "POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            "200 pod-1, 200 pod-1",
        );
        check(
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "200 pod-1",
        );
        check("GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "200 pod-1");
    }

    #[test]
    fn readiness_can_be_flipped() {
        check(
            "POST /ready/false HTTP/1.1\r\n\r\nGET /ready HTTP/1.1\r\n\r\nPOST /ready/true HTTP/1.1\r\n\r\nGET /ready HTTP/1.1\r\n\r\n",
            "200 now not ready, 503 not ready, 200 now ready, 200 ready",
        );
    }

    #[test]
    fn what_cannot_be_framed_is_not_answered() {
        check("nonsense\r\n\r\n", "");
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "");
        check("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "");
    }
}
