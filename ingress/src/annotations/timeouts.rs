//! How long a backend may take: `proxy-connect-timeout`, `proxy-send-timeout`, `proxy-read-timeout`, and
//! `portolan.dev/request-timeout`.

use std::time::Duration;

use super::Annotations;
use crate::config::GatewayArgs;
use crate::message::grpc;

/// What an Ingress says of it; for the rest the gateway's settings hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    connect: Option<Duration>,
    send: Option<Duration>,
    read: Option<Duration>,
    total: Option<Duration>,
}

/// How long a backend may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To be connected to.
    pub connect: Duration,
    /// To take the next piece of a request.
    pub send: Duration,
    /// To send the next piece of a response.
    pub read: Duration,
    /// From the head of the request to the end of the response, all attempts included, if that is limited.
    pub total: Option<Duration>,
}

impl Timeouts {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        Self {
            connect: positive(from, "proxy-connect-timeout"),
            send: positive(from, "proxy-send-timeout"),
            read: positive(from, "proxy-read-timeout"),
            total: positive(from, "portolan.dev/request-timeout"),
        }
    }
}

fn positive(from: &mut Annotations<'_>, name: &'static str) -> Option<Duration> {
    let time = from.seconds(name)?;
    if time.is_zero() {
        from.invalid(name, "must be more than nothing");
    }
    (!time.is_zero()).then_some(time)
}

impl Patience {
    /// What `asked` and the `settings` come to.
    pub fn new(asked: Option<&Timeouts>, settings: &GatewayArgs) -> Self {
        let asked = asked.copied().unwrap_or_default();
        Self {
            connect: asked.connect.unwrap_or(settings.connect_timeout),
            send: asked.send.unwrap_or(settings.backend_timeout),
            read: asked.read.unwrap_or(settings.backend_timeout),
            total: asked.total.or(settings.request_timeout),
        }
    }
}

impl Patience {
    /// The same for a call of gRPC, whose streams may be silent as long as nobody has `asked` for a limit.
    pub fn of_call(self, asked: Option<&Timeouts>) -> Self {
        let asked = asked.copied().unwrap_or_default();
        Self {
            send: asked.send.unwrap_or(grpc::PATIENCE),
            read: asked.read.unwrap_or(grpc::PATIENCE),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotations::policy::tests::read;

    #[test]
    fn times_are_those_asked_for_and_never_nothing() {
        let rows = [
            ("proxy-connect-timeout", "3", Some(3)),
            ("proxy-send-timeout", "120s", Some(120)),
            ("proxy-read-timeout", "3600", Some(3600)),
            ("portolan.dev/request-timeout", "1m", Some(60)),
            ("proxy-read-timeout", "0", None),
            ("proxy-read-timeout", "soon", None),
        ];
        for (name, text, seconds) in rows {
            let policy = read(&[(name, text)]).policy.unwrap_or_default();
            let timeouts = policy.timeouts.as_deref().copied().unwrap_or_default();
            let Timeouts {
                connect,
                send,
                read,
                total,
            } = timeouts;
            let found = connect.or(send).or(read).or(total);
            assert_eq!(found, seconds.map(Duration::from_secs), "{name}: {text}");
        }
    }
}
