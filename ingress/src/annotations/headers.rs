//! Header fields that are set, replaced or removed: `upstream-vhost`, `connection-proxy-header`, `custom-headers`, and our
//! own in place of what snippets did.

use http::header::{self, HeaderName, HeaderValue};

use super::{Annotations, Data, value};

/// Fields of a request to set, one a line: `Name: value`.
pub const SET_REQUEST: &str = "portolan.dev/set-request-headers";
/// Fields of a request to remove, separated by commas.
pub const REMOVE_REQUEST: &str = "portolan.dev/remove-request-headers";
/// Fields of a response to set, one a line: `Name: value`.
pub const SET_RESPONSE: &str = "portolan.dev/set-response-headers";
/// Fields of a response to remove, separated by commas.
pub const REMOVE_RESPONSE: &str = "portolan.dev/remove-response-headers";

/// Fields that say where a message ends and whom it is for; nobody else may touch them.
const OURS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What happens to header fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// What backends see as `Host`.
    pub host: Option<HeaderValue>,
    /// Whether backends are told to close the connection after the response.
    pub closes: bool,
    /// What happens to those of a request.
    pub request: Changes,
    /// What happens to those of a response.
    pub response: Changes,
}

/// Changes to header fields: first some are removed, then some are set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Those that are removed.
    pub removed: Vec<HeaderName>,
    /// Those that are set, in place of any that are there.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl Changes {
    /// These, and then `more`, which decide where both speak of a field.
    fn and(&self, more: Self) -> Self {
        let set = self.set.iter();
        let set = set.filter(|(name, _)| !more.removed.contains(name));
        Self {
            removed: [&*self.removed, &*more.removed].concat(),
            set: set.cloned().chain(more.set.iter().cloned()).collect(),
        }
    }
}

impl Headers {
    /// Reads the annotations.
    pub fn parse(from: &mut Annotations<'_>) -> Self {
        let connection = [
            ("close", true),
            ("keep-alive", false),
            ("Keep-Alive", false),
            ("upgrade", false),
        ];
        let mut response = Changes {
            set: from
                .config_map("custom-headers", custom)
                .unwrap_or_default(),
            removed: from.get(REMOVE_RESPONSE, names).unwrap_or_default(),
        };
        response
            .set
            .extend(from.get(SET_RESPONSE, fields).unwrap_or_default());
        let everywhere = from.defaults();
        Self {
            host: from.get("upstream-vhost", host),
            closes: from
                .choice("connection-proxy-header", &connection)
                .unwrap_or_default(),
            request: everywhere.request.and(Changes {
                removed: from.get(REMOVE_REQUEST, names).unwrap_or_default(),
                set: from.get(SET_REQUEST, fields).unwrap_or_default(),
            }),
            response: everywhere.response.and(response),
        }
    }
}

fn host(text: &str) -> Result<HeaderValue, String> {
    let is_host = crate::message::host::Authority::parse(text).is_some();
    let value = HeaderValue::try_from(text).ok().filter(|_| is_host);
    value.ok_or_else(|| format!("{text:?} is not a host"))
}

/// The entries of a ConfigMap as fields.
fn custom(data: &Data) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let field = |(name, text): (&String, &Vec<u8>)| {
        let text = std::str::from_utf8(text).map_err(|_| format!("{name} is not text"))?;
        field(name, text)
    };
    data.iter().map(field).collect()
}

fn fields(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let field = |line: &str| {
        let (name, text) = line
            .split_once(':')
            .ok_or_else(|| format!("{line:?} is not like Name: value"))?;
        field(name.trim(), text)
    };
    lines.map(field).collect()
}

fn field(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), String> {
    Ok((allowed(name)?, value::header_value(text.trim())?))
}

fn names(text: &str) -> Result<Vec<HeaderName>, String> {
    value::list(text)?.into_iter().map(allowed).collect()
}

pub(crate) fn allowed(name: &str) -> Result<HeaderName, String> {
    let name = value::header_name(name)?;
    match OURS.contains(&name) {
        true => Err(format!("{name} is not for others to change")),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::annotations::policy::tests::{read, read_with, verdict};
    use crate::annotations::{Reference, Referenced, Seen};
    use model::ObjectName;

    fn parsed(annotations: &[(&str, &str)]) -> Headers {
        let policy = read(annotations).policy.unwrap_or_default();
        policy.headers.as_deref().cloned().unwrap_or_default()
    }

    fn shown(changes: &Changes) -> Vec<String> {
        let removed = changes.removed.iter().map(|name| format!("-{name}"));
        let set = changes
            .set
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        removed.chain(set).collect()
    }

    #[test]
    fn fields_are_set_and_removed() {
        let headers = parsed(&[
            (SET_REQUEST, "X-One: 1\n  x-two : a: b\n"),
            (REMOVE_REQUEST, "Accept-Encoding, x-three"),
            (SET_RESPONSE, "X-Frame-Options: DENY"),
            (REMOVE_RESPONSE, "server"),
        ]);
        assert_eq!(
            shown(&headers.request),
            ["-accept-encoding", "-x-three", "x-one=1", "x-two=a: b"]
        );
        assert_eq!(
            shown(&headers.response),
            ["-server", "x-frame-options=DENY"]
        );
    }

    #[test]
    fn framing_and_routing_stay_ours() {
        let rows = [
            (SET_REQUEST, "Transfer-Encoding: chunked"),
            (SET_REQUEST, "host: b"),
            (SET_REQUEST, "no colon"),
            (SET_REQUEST, "a b: c"),
            (SET_REQUEST, "a: \u{1}"),
            (REMOVE_RESPONSE, "content-length"),
            ("upstream-vhost", "a b"),
            ("upstream-vhost", "a/b"),
            ("connection-proxy-header", "X-Secret"),
        ];
        for (name, value) in rows {
            let reading = read(&[(name, value)]);
            assert_eq!(verdict(&reading, name).0, "invalid", "{name}: {value}");
            assert_eq!(reading.policy, None, "{name}: {value}");
        }
        assert_eq!(
            parsed(&[("upstream-vhost", "b.org:81")]).host.unwrap(),
            "b.org:81"
        );
        assert!(parsed(&[("connection-proxy-header", "close")]).closes);
    }

    #[test]
    fn custom_headers_come_from_a_config_map() {
        let reference = Reference::ConfigMap(ObjectName::new("ns", "m"));
        let check = |entries: &[(&str, &str)], expected: Option<&[&str]>| {
            let data = entries
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
            let mut objects = Referenced::default();
            objects.put(reference.clone(), Seen::Present(data.collect()));
            let reading = read_with(&[("custom-headers", "ns/m")], &objects);
            let found = reading
                .policy
                .map(|policy| shown(&policy.headers.as_deref().unwrap().response));
            assert_eq!(
                found
                    .as_deref()
                    .map(|found| found.iter().map(String::as_str).collect::<Vec<_>>())
                    .as_deref(),
                expected
            );
        };
        check(&[("X-A", "1"), ("x-b", "2")], Some(&["x-a=1", "x-b=2"]));
        check(&[("X-A", "1"), ("Content-Length", "2")], None);
        check(&[("a b", "1")], None);
    }
}
