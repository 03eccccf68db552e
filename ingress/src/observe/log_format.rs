//! How a line of the access log looks: JSON, or a text of the operator's with nginx's variables.
//!
//! A format is read once, at the start; an unknown variable is an error of the command line, not of a request.

use std::fmt::Write;
use std::str::FromStr;

use crate::observe::line::{Field, Line, Value};

/// ingress-nginx's own `log-format-upstream`.
const NGINX: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                     \"$http_referer\" \"$http_user_agent\" $request_length $request_time \
                     [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr \
                     $upstream_response_length $upstream_response_time $upstream_status $req_id";

/// Variables of nginx, and the field of our line that they stand for; the last ones have none here and are always `-`.
const VARIABLES: [(&str, Option<Field>); 41] = [
    ("remote_addr", Some(Field::RemoteAddr)),
    ("the_real_ip", Some(Field::RemoteAddr)),
    ("remote_port", Some(Field::RemotePort)),
    ("time_local", Some(Field::TimeLocal)),
    ("time_iso8601", Some(Field::Time)),
    ("msec", Some(Field::Msec)),
    ("request", Some(Field::Request)),
    ("request_method", Some(Field::Method)),
    ("request_uri", Some(Field::Target)),
    ("server_protocol", Some(Field::Protocol)),
    ("scheme", Some(Field::Scheme)),
    ("host", Some(Field::Host)),
    ("http_host", Some(Field::Host)),
    ("status", Some(Field::Status)),
    ("body_bytes_sent", Some(Field::BytesSent)),
    ("bytes_sent", Some(Field::BytesSent)),
    ("http_referer", Some(Field::Referer)),
    ("http_user_agent", Some(Field::UserAgent)),
    ("request_time", Some(Field::Duration)),
    ("req_id", Some(Field::RequestId)),
    ("request_id", Some(Field::RequestId)),
    ("namespace", Some(Field::Namespace)),
    ("ingress_name", Some(Field::Ingress)),
    ("service_name", Some(Field::Service)),
    ("location_path", Some(Field::Path)),
    ("upstream_addr", Some(Field::Backend)),
    ("proxy_upstream_name", Some(Field::UpstreamName)),
    ("upstream_response_length", Some(Field::UpstreamLength)),
    ("upstream_response_time", Some(Field::UpstreamDuration)),
    ("upstream_header_time", Some(Field::UpstreamHead)),
    ("upstream_status", Some(Field::UpstreamStatus)),
    ("attempts", Some(Field::Attempts)),
    ("reason", Some(Field::Reason)),
    ("opentelemetry_trace_id", Some(Field::TraceId)),
    ("opentelemetry_span_id", Some(Field::SpanId)),
    (
        "opentelemetry_context_traceparent",
        Some(Field::Traceparent),
    ),
    ("opentelemetry_sampled", Some(Field::Sampled)),
    ("remote_user", None),
    ("request_length", None),
    ("proxy_alternative_upstream_name", None),
    ("service_port", None),
];

/// The fields of an object, which are always there, with their names and what is before them.
const FIELDS: [(&str, Field); 21] = [
    ("{\"time\":", Field::Time),
    (",\"remote_addr\":", Field::RemoteAddr),
    (",\"remote_port\":", Field::RemotePort),
    (",\"scheme\":", Field::Scheme),
    (",\"protocol\":", Field::Protocol),
    (",\"method\":", Field::Method),
    (",\"host\":", Field::Host),
    (",\"target\":", Field::Target),
    (",\"status\":", Field::Status),
    (",\"bytes_sent\":", Field::BytesSent),
    (",\"duration\":", Field::Duration),
    (",\"request_id\":", Field::RequestId),
    (",\"user_agent\":", Field::UserAgent),
    (",\"referer\":", Field::Referer),
    (",\"namespace\":", Field::Namespace),
    (",\"ingress\":", Field::Ingress),
    (",\"service\":", Field::Service),
    (",\"path\":", Field::Path),
    (",\"backend\":", Field::Backend),
    (",\"attempts\":", Field::Attempts),
    (",\"reason\":", Field::Reason),
];
/// Those that are there if they are known.
const RARE_FIELDS: [(&str, Field); 2] = [
    (",\"trace_id\":", Field::TraceId),
    (",\"span_id\":", Field::SpanId),
];

/// How a line looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// An object with a field for everything that is known.
    Json,
    /// A text.
    Text(Vec<Piece>),
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stays as it is.
    Text(Box<str>),
    /// A field of the line; nothing for one that is never there.
    Field(Option<Field>),
}

/// A format speaks of a variable that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no variable ${0} in the access log")]
pub struct UnknownVariable(String);

impl FromStr for LogFormat {
    type Err = UnknownVariable;

    /// Reads `json`, `nginx` for ingress-nginx's own, or a text with variables.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "nginx" => pieces(NGINX).map(Self::Text),
            text => pieces(text).map(Self::Text),
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, UnknownVariable> {
    let mut pieces = Vec::new();
    let mut parts = text.split('$');
    let mut push = |text: &str| {
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
    };
    push(parts.next().unwrap_or_default());
    for part in parts {
        let (name, after) = split_name(part);
        let known = VARIABLES.iter().find(|(variable, _)| *variable == name);
        let (_, field) = known.ok_or_else(|| UnknownVariable(name.to_owned()))?;
        pieces.push(Piece::Field(*field));
        if !after.is_empty() {
            pieces.push(Piece::Text(after.into()));
        }
    }
    Ok(pieces)
}

/// A variable's name at the beginning of `text`, bare or in braces, and what follows.
fn split_name(text: &str) -> (&str, &str) {
    let braced = text.strip_prefix('{').and_then(|text| text.split_once('}'));
    braced.unwrap_or_else(|| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
    })
}

impl LogFormat {
    /// Appends `line` to `out`.
    pub fn write(&self, line: &impl Line, out: &mut Vec<u8>) {
        match self {
            Self::Json => push_object(line, out),
            Self::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(piece) => text.push_str(piece),
                        Piece::Field(None) => text.push('-'),
                        Piece::Field(Some(field)) => push_value(&mut text, &line.value(*field)),
                    }
                }
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn push_object(line: &impl Line, out: &mut Vec<u8>) {
    for (name, field) in FIELDS {
        out.extend_from_slice(name.as_bytes());
        push_json(out, &line.value(field));
    }
    for (name, field) in RARE_FIELDS {
        let value = line.value(field);
        if value != Value::Nothing {
            out.extend_from_slice(name.as_bytes());
            push_json(out, &value);
        }
    }
    out.push(b'}');
}

fn push_json(out: &mut Vec<u8>, value: &Value<'_>) {
    let written = match value {
        Value::Nothing => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        // Nearly every text is one that stays as it is.
        Value::Text(text) if is_plain(text.as_bytes()) => {
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
            Ok(())
        }
        Value::Text(text) => serde_json::to_writer(out, text),
        Value::Number(number) => {
            out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            Ok(())
        }
        Value::Seconds(seconds) => serde_json::to_writer(out, seconds),
    };
    debug_assert!(
        written.is_ok(),
        "texts and numbers can be written to memory"
    );
}

/// Whether JSON has a text as it is. Without a way out in the middle, many bytes are looked at in one step.
fn is_plain(text: &[u8]) -> bool {
    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    !text
        .iter()
        .fold(false, |found, byte| found | is_special(byte))
}

/// Appends a field; one that is not known is `-`, as in nginx.
fn push_value(text: &mut String, value: &Value<'_>) {
    match value {
        Value::Nothing => text.push('-'),
        Value::Text(value) if value.is_empty() => text.push('-'),
        Value::Text(value) => push_escaped(text, value),
        Value::Number(number) => text.push_str(itoa::Buffer::new().format(*number)),
        Value::Seconds(seconds) => {
            let written = write!(text, "{seconds:.3}");
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
        }
    }
}

/// Appends `value` so that nothing a client sends can end a quoted field or a line: as nginx does it.
fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' | '\0'..='\x1f' | '\x7f' => {
                let written = write!(text, "\\x{:02X}", u32::from(c));
                debug_assert!(written.is_ok(), "writing to a string cannot fail");
            }
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A line in which the client has a say.
    struct Sample<'s>(&'s str);

    impl Line for Sample<'_> {
        fn value(&self, field: Field) -> Value<'_> {
            match field {
                Field::RemoteAddr => "192.0.2.1".into(),
                Field::Status => 200.into(),
                Field::Duration => Value::Seconds(0.0125),
                Field::Target | Field::UserAgent => self.0.into(),
                Field::Request => Value::own("GET / HTTP/1.1".to_owned()),
                Field::BytesSent => 5.into(),
                Field::SpanId => (!self.0.is_empty()).then_some("00f0").into(),
                _ => Value::Nothing,
            }
        }
    }

    fn written(format: &LogFormat, client: &str) -> String {
        let mut out = Vec::new();
        format.write(&Sample(client), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn check(format: &str, expected: &str) {
        let format = LogFormat::from_str(format).unwrap_or_else(|error| panic!("{error}"));
        let expected = expected.to_owned();
        assert_eq!(written(&format, "/a\"b\n"), expected);
    }

    #[test]
    fn an_object_has_all_fields_and_what_is_not_known_is_null() {
        let expected = "{\"time\":null,\"remote_addr\":\"192.0.2.1\",\"remote_port\":null,\"scheme\":null,\
                        \"protocol\":null,\"method\":null,\"host\":null,\"target\":\"\",\"status\":200,\
                        \"bytes_sent\":5,\"duration\":0.0125,\"request_id\":null,\"user_agent\":\"\",\
                        \"referer\":null,\"namespace\":null,\"ingress\":null,\"service\":null,\"path\":null,\
                        \"backend\":null,\"attempts\":null,\"reason\":null}";
        assert_eq!(written(&LogFormat::Json, ""), expected);
    }

    #[test]
    fn variables_stand_for_fields_and_what_is_not_known_is_a_dash() {
        check(
            "$remote_addr [$status] ${request_time}s",
            "192.0.2.1 [200] 0.013s",
        );
        check("$host/$remote_user", "-/-");
        check(
            "<$request_uri>",
            "<\\x2Fa>".replace("\\x2Fa", "/a\\x22b\\x0A").as_str(),
        );
        check("no variable", "no variable");
    }

    #[test]
    fn ingress_nginx_s_format_is_known() {
        let expected =
            "192.0.2.1 - - [-] \"GET / HTTP/1.1\" 200 5 \"-\" \"agent\" - 0.013 [-] [-] - - - - -";
        let format = LogFormat::from_str("nginx").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(written(&format, "agent"), expected);
    }

    #[test]
    fn unknown_variables_are_refused() {
        let unknown = |name: &str| Err(UnknownVariable(name.to_owned()));
        assert_eq!(LogFormat::from_str("$status $nothing"), unknown("nothing"));
        assert_eq!(LogFormat::from_str("100$"), unknown(""));
    }

    proptest! {
        #[test]
        fn any_format_is_read_or_refused_and_no_value_breaks_a_line(format in "\\PC{0,40}", value in any::<String>()) {
            if let Ok(format) = LogFormat::from_str(&format) {
                written(&format, &value);
            }
            let object: serde_json::Value = serde_json::from_str(&written(&LogFormat::Json, &value))?;
            prop_assert_eq!(&object["target"], &json!(value));
            prop_assert_eq!(object.get("span_id").is_some(), !value.is_empty());
            let mut text = String::new();
            push_escaped(&mut text, &value);
            prop_assert!(!text.contains(['"', '\n', '\r']));
        }
    }
}
