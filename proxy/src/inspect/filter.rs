//! Which service is meant on a command line.

use std::collections::HashMap;
use std::str::FromStr;

/// A Service by name, with or without a port's name, or a service id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceFilter {
    /// `17`
    Id(u32),
    /// `default/web`: all its ports.
    Service(String),
    /// `default/web:http`
    Port(String),
}

impl FromStr for ServiceFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                let is_port = name.contains(':');
                let filter = if is_port { Self::Port } else { Self::Service };
                Ok(filter(text.to_owned()))
            }
            _ => Err("expected NAMESPACE/NAME, NAMESPACE/NAME:PORT or a service id"),
        }
    }
}

impl ServiceFilter {
    /// Whether the service with `id` and `name` is meant.
    pub(super) fn is_met(&self, id: u32, name: Option<&str>) -> bool {
        match self {
            Self::Id(wanted) => id == *wanted,
            Self::Port(wanted) => name == Some(wanted.as_str()),
            Self::Service(wanted) => {
                let rest = name.and_then(|name| name.strip_prefix(wanted.as_str()));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            }
        }
    }
}

/// Whether a service is meant when there may be no filter at all.
pub(super) fn is_met(
    filter: Option<&ServiceFilter>,
    id: u32,
    names: &HashMap<u32, String>,
) -> bool {
    filter.is_none_or(|filter| filter.is_met(id, names.get(&id).map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, id: u32, name: Option<&str>, met: bool) {
        let filter: ServiceFilter = filter.parse().expect("the table holds filters");
        assert_eq!(filter.is_met(id, name), met);
    }

    #[test]
    fn a_name_means_all_ports_of_that_service_and_of_no_other() {
        check("default/web", 1, Some("default/web"), true);
        check("default/web", 1, Some("default/web:http"), true);
        check("default/web", 1, Some("default/web2"), false);
        check("default/web", 1, Some("default/web2:http"), false);
        check("default/web", 1, None, false);
        check("default/web:http", 1, Some("default/web:http"), true);
        check("default/web:http", 1, Some("default/web:https"), false);
        check("default/web:http", 1, Some("default/web"), false);
    }

    #[test]
    fn a_number_means_an_id() {
        check("7", 7, None, true);
        check("7", 8, Some("default/7"), false);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["web", "/web", "default/", ""] {
            assert!(text.parse::<ServiceFilter>().is_err(), "{text}");
        }
    }
}
