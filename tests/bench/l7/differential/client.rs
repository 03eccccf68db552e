//! The client's side: sends bytes as they are, and says what came back.

use std::fmt::{self, Display};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Result;

/// How long nothing may come before a gateway is taken to be waiting: at first, and after something.
const SILENT: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(300);

/// What came back.
#[derive(Debug)]
pub(super) struct Seen {
    statuses: Vec<String>,
    is_closed: bool,
}

/// Sends `bytes` to the gateway at `port` and reads until it closes the connection or has nothing more to say.
pub(super) fn send(port: u16, bytes: &[u8]) -> Result<Seen> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(SILENT))?;
    // A gateway that refuses early may have closed before all of it is written.
    let mut is_closed = stream.write_all(bytes).is_err();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => is_closed = true,
            Ok(count) => {
                answer.extend_from_slice(&buffer[..count]);
                stream.set_read_timeout(Some(QUIET))?;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => is_closed = true,
        }
        break;
    }
    Ok(Seen {
        statuses: statuses(&answer),
        is_closed,
    })
}

/// The statuses of all answers. No body here holds what begins one.
fn statuses(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    let heads = text.split("HTTP/1.").skip(1);
    let statuses = heads.filter_map(|head| head.get(2..5));
    statuses.map(str::to_owned).collect()
}

impl Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses = match self.statuses.as_slice() {
            [] => "nothing".to_owned(),
            some => some.join(", "),
        };
        let end = if self.is_closed { "closed" } else { "open" };
        write!(f, "{statuses}, {end}")
    }
}
