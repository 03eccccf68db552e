//! One object while its fields are read: what makes no sense in it is noted and left out. Here is what fields of several
//! kinds of objects have in common.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Parsed, Problem};
use crate::names::Names;
use crate::parse;
use crate::service::{ObjectName, Protocol};

/// Gathers the problems of one object while its fields are read.
pub(super) struct Report<'a> {
    kind: &'static str,
    metadata: &'a ObjectMeta,
    pub(super) names: &'a mut Names,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(kind: &'static str, metadata: &'a ObjectMeta, names: &'a mut Names) -> Self {
        Self {
            kind,
            metadata,
            names,
            problems: Vec::new(),
        }
    }

    /// The object, for people.
    fn object(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or("(no name)");
        match &self.metadata.namespace {
            Some(namespace) => format!("{} {namespace}/{name}", self.kind),
            None => format!("{} {name}", self.kind),
        }
    }

    pub(super) fn shared(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        let text = text.filter(|text| !text.is_empty())?;
        Some(self.names.share(text))
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Parsed<T> {
        let problems = self.problems;
        Parsed { value, problems }
    }

    pub(super) fn add(&mut self, field: impl Display, reason: impl Into<String>) {
        self.problems.push(Problem {
            object: self.object(),
            field: field.to_string(),
            reason: reason.into(),
        });
    }

    pub(super) fn name(&mut self, metadata: &ObjectMeta) -> Option<ObjectName> {
        let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            self.add("metadata.name", "is missing");
            return None;
        };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Some(ObjectName::new(self.names.share(namespace), name))
    }
}

impl Report<'_> {
    pub(super) fn addresses(&mut self, field: &str, texts: Option<&[String]>) -> Vec<IpAddr> {
        let texts = texts.unwrap_or_default().iter().enumerate();
        tight(texts.filter_map(|(i, text)| self.address(format_args!("{field}[{i}]"), text)))
    }

    pub(super) fn ranges(&mut self, field: &str, texts: Option<&[String]>) -> Vec<IpNetwork> {
        let texts = texts.unwrap_or_default().iter().enumerate();
        texts
            .filter_map(|(i, text)| {
                let range = parse::range(text);
                if range.is_none() {
                    self.add(
                        format_args!("{field}[{i}]"),
                        format!("{text:?} is not an address range"),
                    );
                }
                range
            })
            .collect()
    }

    pub(super) fn address(&mut self, field: impl Display, text: &str) -> Option<IpAddr> {
        let address = parse::address(text);
        if address.is_none() {
            self.add(field, format!("{text:?} is not an IP address"));
        }
        address
    }

    pub(super) fn port(&mut self, field: impl Display, number: i32) -> Option<NonZeroU16> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.add(field, format!("{number} is not a port number"));
        }
        port
    }

    pub(super) fn protocol(&mut self, port: impl Display, text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                let field = format_args!("{port}.protocol");
                self.add(field, format!("{other:?} is not a protocol"));
                None
            }
        }
    }
}

/// The values of an iterator that leaves out few or none, in no more memory than all of them take: to grow by steps would
/// leave room for three more in each of the many lists of one.
pub(super) fn tight<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let most = values.size_hint().1.unwrap_or_default();
    let mut all = Vec::with_capacity(most);
    all.extend(values);
    all
}

pub(super) fn boxed(text: Option<&str>) -> Option<Box<str>> {
    text.filter(|text| !text.is_empty()).map(Box::from)
}
