//! How a line of the access log looks: JSON, or a text of the operator's with nginx's variables.
//!
//! A format is read once, at the start; an unknown variable is an error of the command line, not of a request.

use std::fmt::Write;
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

/// ingress-nginx's own `log-format-upstream`.
const NGINX: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                     \"$http_referer\" \"$http_user_agent\" $request_length $request_time \
                     [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr \
                     $upstream_response_length $upstream_response_time $upstream_status $req_id";

/// Variables of nginx, and the field of our line that they stand for; the last ones have none here and are always `-`.
const VARIABLES: [(&str, &str); 41] = [
    ("remote_addr", "remote_addr"),
    ("the_real_ip", "remote_addr"),
    ("remote_port", "remote_port"),
    ("time_local", "time_local"),
    ("time_iso8601", "time"),
    ("msec", "msec"),
    ("request", "request"),
    ("request_method", "method"),
    ("request_uri", "target"),
    ("server_protocol", "protocol"),
    ("scheme", "scheme"),
    ("host", "host"),
    ("http_host", "host"),
    ("status", "status"),
    ("body_bytes_sent", "bytes_sent"),
    ("bytes_sent", "bytes_sent"),
    ("http_referer", "referer"),
    ("http_user_agent", "user_agent"),
    ("request_time", "duration"),
    ("req_id", "request_id"),
    ("request_id", "request_id"),
    ("namespace", "namespace"),
    ("ingress_name", "ingress"),
    ("service_name", "service"),
    ("location_path", "path"),
    ("upstream_addr", "backend"),
    ("proxy_upstream_name", "upstream_name"),
    ("upstream_response_length", "upstream_length"),
    ("upstream_response_time", "upstream_duration"),
    ("upstream_header_time", "upstream_head"),
    ("upstream_status", "upstream_status"),
    ("attempts", "attempts"),
    ("reason", "reason"),
    ("opentelemetry_trace_id", "trace_id"),
    ("opentelemetry_span_id", "span_id"),
    ("opentelemetry_context_traceparent", "traceparent"),
    ("opentelemetry_sampled", "sampled"),
    ("remote_user", ""),
    ("request_length", ""),
    ("proxy_alternative_upstream_name", ""),
    ("service_port", ""),
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
    /// A field of the line, empty for one that is never there.
    Field(&'static str),
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
        pieces.push(Piece::Field(field));
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
    /// Appends `line` to `out`. Fails on nothing that a line of ours has.
    pub fn write(&self, line: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Json => serde_json::to_writer(out, line),
            Self::Text(pieces) => {
                let line = serde_json::to_value(line)?;
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(piece) => text.push_str(piece),
                        Piece::Field(name) => push_value(&mut text, &line, name),
                    }
                }
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
    }
}

/// Appends a field; one that is not known is `-`, as in nginx.
fn push_value(text: &mut String, line: &Value, name: &str) {
    match &line[name] {
        Value::Null => text.push('-'),
        Value::String(value) if value.is_empty() => text.push('-'),
        Value::String(value) => push_escaped(text, value),
        Value::Number(value) if value.is_f64() => {
            let seconds = value.as_f64().unwrap_or_default();
            let written = write!(text, "{seconds:.3}");
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
        }
        other => text.push_str(&other.to_string()),
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

    fn check(format: &str, expected: &str) {
        let line = json!({
            "remote_addr": "192.0.2.1", "status": 200, "duration": 0.0125, "target": "/a\"b\n", "host": null,
            "request": "GET / HTTP/1.1", "bytes_sent": 5,
        });
        let mut out = Vec::new();
        let format = LogFormat::from_str(format).unwrap_or_else(|error| panic!("{error}"));
        format
            .write(&line, &mut out)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(String::from_utf8_lossy(&out), expected);
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
            "192.0.2.1 - - [-] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\" - 0.013 [-] [-] - - - - -";
        check("nginx", expected);
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
                let mut out = Vec::new();
                let written = format.write(&json!({"target": value, "host": value}), &mut out);
                prop_assert!(written.is_ok());
            }
            let mut text = String::new();
            push_escaped(&mut text, &value);
            prop_assert!(!text.contains(['"', '\n', '\r']));
        }
    }
}
