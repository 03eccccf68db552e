//! TLS that a backend ends itself: bytes go through unread, chosen by the host that the client's first message asks for.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::opening::Opening;
use crate::message::answer::Reason;
use crate::routes::{Route, Target};
use crate::server::worker::Worker;
use crate::upstream::balance::Choice;

/// Most endpoints that are tried for one connection.
const MAX_ATTEMPTS: usize = 3;

/// Connects the client to an endpoint of `route`, which gets all that the client has sent so far and will send. At the
/// end of the gateway the connection has until the drain timeout, like any other.
pub async fn serve(worker: &Rc<Worker>, opening: Opening, route: &Route) -> io::Result<()> {
    let mut backend = match connect(worker, route).await {
        Ok(backend) => backend,
        Err(reason) => {
            worker.metrics().count_reason(reason);
            return Err(io::Error::other(reason.name()));
        }
    };
    let mut client = opening.into_socket();
    copy_bidirectional(&mut client, &mut backend)
        .await
        .map(drop)
}

async fn connect(worker: &Worker, route: &Route) -> Result<TcpStream, Reason> {
    let Target::Backend(upstream) = &route.target else {
        return Err(Reason::NoBackend);
    };
    let settings = worker.settings();
    let mut failure = None;
    let mut unreachable: Vec<SocketAddr> = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let started = Instant::now();
        let choice = Choice {
            tried: &unreachable,
            ..Choice::new(started)
        };
        let place = upstream
            .pick(&choice)
            .map_err(|reason| failure.unwrap_or(reason))?;
        let address = place.address();
        match timeout(settings.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                place.succeeded(started, Instant::now());
                stream
                    .set_nodelay(true)
                    .map_err(|_| Reason::ConnectFailed)?;
                return Ok(stream);
            }
            Ok(Err(_)) => failure = Some(Reason::ConnectFailed),
            Err(_) => failure = Some(Reason::ConnectTimeout),
        }
        upstream.failed(&place, &settings.ejection(), Instant::now());
        unreachable.push(address);
    }
    Err(failure.unwrap_or(Reason::NoEndpoint))
}
