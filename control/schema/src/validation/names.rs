//! The syntax of names, keys and values. Each check returns what is wrong, in upstream's words; nothing if all is well.

use std::sync::LazyLock;

use regex::Regex;

/// What is wrong with a value.
pub(crate) type Problems = Vec<String>;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const WILDCARD: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const CONFIG_KEY: &str = "[-._a-zA-Z0-9]+";
const PERCENT: &str = "[0-9]+%";
const HEADER: &str = "[-A-Za-z0-9]+";

const KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";

/// A syntax: a regular expression for the whole value, and what to say when it does not match.
struct Syntax {
    regex: LazyLock<Regex>,
    message: &'static str,
    examples: &'static [&'static str],
    pattern: &'static str,
}

macro_rules! syntax {
    ($pattern:expr, $message:expr, $examples:expr) => {
        Syntax {
            regex: LazyLock::new(|| {
                Regex::new(&format!("^(?:{})$", $pattern)).expect("the pattern is constant")
            }),
            message: $message,
            examples: &$examples,
            pattern: $pattern,
        }
    };
}

static LABEL_SYNTAX: Syntax = syntax!(
    LABEL,
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
    ["my-name", "123-abc"]
);
static SUBDOMAIN_SYNTAX: Syntax = syntax!(
    SUBDOMAIN,
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
    ["example.com"]
);
static WILDCARD_SYNTAX: Syntax = syntax!(
    WILDCARD,
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    ["*.example.com"]
);
static DNS_1035_SYNTAX: Syntax = syntax!(
    DNS_1035,
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
    ["my-name", "abc-123"]
);
static KEY_SYNTAX: Syntax = syntax!(KEY_NAME, KEY_MESSAGE, ["MyName", "my.name", "123-abc"]);
static LABEL_VALUE_SYNTAX: Syntax = syntax!(
    LABEL_VALUE,
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    ["MyValue", "my_value", "12345"]
);
static CONFIG_KEY_SYNTAX: Syntax = syntax!(
    CONFIG_KEY,
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    ["key.name", "KEY_NAME", "key-name"]
);
static PERCENT_SYNTAX: Syntax = syntax!(
    PERCENT,
    "a valid percent string must be a numeric string followed by an ending '%'",
    ["1%", "93%"]
);
static HEADER_SYNTAX: Syntax = syntax!(
    HEADER,
    "a valid HTTP header must consist of alphanumeric characters or '-'",
    ["X-Header-Name"]
);

impl Syntax {
    fn check(&self, value: &str) -> Option<String> {
        (!self.regex.is_match(value)).then(|| self.explain())
    }

    fn explain(&self) -> String {
        let examples: Vec<String> = self.examples.iter().map(|e| format!("'{e}', ")).collect();
        format!(
            "{} (e.g. {}regex used for validation is '{}')",
            self.message,
            examples.join(" or "),
            self.pattern
        )
    }
}

/// A lower-case DNS label (RFC 1123), at most 63 characters.
pub(crate) fn dns_label(value: &str) -> Problems {
    too_long(value, 63)
        .into_iter()
        .chain(LABEL_SYNTAX.check(value))
        .collect()
}

/// A lower-case DNS subdomain (RFC 1123), at most 253 characters.
pub(crate) fn dns_subdomain(value: &str) -> Problems {
    too_long(value, 253)
        .into_iter()
        .chain(SUBDOMAIN_SYNTAX.check(value))
        .collect()
}

/// `*.` and a DNS subdomain.
pub(crate) fn wildcard_subdomain(value: &str) -> Problems {
    too_long(value, 253)
        .into_iter()
        .chain(WILDCARD_SYNTAX.check(value))
        .collect()
}

/// A DNS label that begins with a letter (RFC 1035).
pub(crate) fn dns_1035_label(value: &str) -> Problems {
    too_long(value, 63)
        .into_iter()
        .chain(DNS_1035_SYNTAX.check(value))
        .collect()
}

/// A name with an optional DNS prefix, as `example.com/name`: keys of labels and annotations.
pub(crate) fn qualified_name(value: &str) -> Problems {
    let mut problems = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|p| format!("prefix part {p}")),
                );
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                KEY_SYNTAX.explain()
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else {
        problems.extend(too_long(name, 63).map(|p| format!("name part {p}")));
    }
    problems.extend(KEY_SYNTAX.check(name).map(|p| format!("name part {p}")));
    problems
}

/// The value of a label.
pub(crate) fn label_value(value: &str) -> Problems {
    too_long(value, 63)
        .into_iter()
        .chain(LABEL_VALUE_SYNTAX.check(value))
        .collect()
}

/// A key of a `ConfigMap` or Secret.
pub(crate) fn config_key(value: &str) -> Problems {
    let syntax = too_long(value, 253)
        .into_iter()
        .chain(CONFIG_KEY_SYNTAX.check(value));
    syntax.chain(directory_change(value)).collect()
}

/// The name of an environment variable: printable ASCII without `=`.
pub(crate) fn env_name(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if !value.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned(),
        );
    }
    problems
}

/// The name of a port, at most 15 characters (RFC 6335).
pub(crate) fn port_name(value: &str) -> Problems {
    let mut problems: Problems = too_long(value, 15).into_iter().collect();
    let mut unless = |ok: bool, problem: &str| {
        if !ok {
            problems.push(problem.to_owned());
        }
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    unless(
        !value.is_empty() && value.bytes().all(allowed),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    unless(
        value.bytes().any(|b| b.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    unless(
        !value.contains("--"),
        "must not contain consecutive hyphens",
    );
    unless(
        !value.starts_with('-') && !value.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    problems
}

/// The number of a port.
pub(crate) fn port_number(value: i64) -> Problems {
    in_range(value, 1, 65535)
}

/// A number between two bounds, both allowed.
pub(crate) fn in_range(value: i64, low: i64, high: i64) -> Problems {
    if (low..=high).contains(&value) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// A percentage, as `25%`.
pub(crate) fn percent(value: &str) -> Problems {
    PERCENT_SYNTAX.check(value).into_iter().collect()
}

/// The name of an HTTP header.
pub(crate) fn header_name(value: &str) -> Problems {
    HEADER_SYNTAX.check(value).into_iter().collect()
}

fn too_long(value: &str, limit: usize) -> Option<String> {
    (value.len() > limit).then(|| format!("must be no more than {limit} characters"))
}

fn directory_change(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_with_upstreams_words() {
        assert_eq!(dns_label("web-1"), [""; 0]);
        assert_eq!(
            dns_subdomain("Web_1"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns_1035_label("1web"),
            [
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
              character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
              validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns_label(&"a".repeat(64)),
            ["must be no more than 63 characters"]
        );
        assert_eq!(dns_label("a\n").len(), 1);
    }

    #[test]
    fn keys_values_and_ports() {
        assert_eq!(qualified_name("app.kubernetes.io/name"), [""; 0]);
        assert_eq!(qualified_name("/name"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert_eq!(label_value(""), [""; 0]);
        assert_eq!(label_value("-").len(), 1);
        assert_eq!(config_key("..data"), ["must not start with '..'"]);
        assert_eq!(env_name("A=B").len(), 1);
        assert_eq!(port_name("http"), [""; 0]);
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(
            port_number(70_000),
            ["must be between 1 and 65535, inclusive"]
        );
        assert_eq!(percent("25%"), [""; 0]);
    }
}
