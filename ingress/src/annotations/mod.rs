//! What an Ingress asks for by its annotations, from text to types.
//!
//! A feature that annotations govern has a file here with its type and its parser: a pure function that takes what it
//! knows from [`Annotations`] and returns plain values. [`Policy`] holds them side by side, and [`known`] says of every
//! annotation there is what becomes of it, so none is passed over in silence. Routing, `lint` and admission all read an
//! object through [`Policy::read`] and cannot disagree about it.
//!
//! A bad value never takes a route away: it counts as absent and is reported. Only what guards a route closes it when it
//! cannot be carried out.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1::Ingress;
use model::ObjectName;

pub mod access;
pub mod affinity;
pub mod backend;
pub mod balancing;
pub mod basic_auth;
pub mod body;
pub mod buffering;
pub mod canary;
pub mod client_certificate;
pub mod cors;
pub mod defaults;
pub mod denied_paths;
pub mod errors;
pub mod external_auth;
pub mod finding;
pub mod fixed_answer;
pub mod groups;
pub mod headers;
pub mod hosts;
pub mod https;
pub mod known;
pub mod limits;
pub mod log;
pub mod mirror;
pub mod opentelemetry;
pub mod passthrough;
pub mod paths;
pub mod pattern;
pub mod policy;
pub mod redirect;
pub mod referenced;
pub mod retries;
pub mod rewrite;
pub mod substitute;
pub mod timeouts;
pub mod value;

pub use defaults::Defaults;
pub use finding::{Finding, Verdict};
pub use pattern::Pattern;
pub use policy::{Policy, Reading};
pub use referenced::{Data, Reference, Referenced, Seen};

use known::{Known, Meaning};

/// The prefix of ingress-nginx.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// The prefix of its first versions, and of other controllers since. [`PREFIX`] wins where both are set.
pub const LEGACY_PREFIX: &str = "ingress.kubernetes.io/";
/// The prefix of our own annotations.
pub const OWN_PREFIX: &str = "portolan.dev/";

/// Reads the annotations of one Ingress, each as what it should be, and notes what is wrong with them.
///
/// Names are given without prefix, our own ones with it. Every getter returns nothing if the annotation is absent, empty
/// or bad; a bad one is noted as [`Verdict::Invalid`]. Parsers ask for all that they own, whatever the values: what nobody
/// asked for is reported as not supported.
#[derive(Debug)]
pub struct Annotations<'a> {
    namespace: &'a str,
    given: Vec<Given<'a>>,
    defaults: &'a Defaults,
    objects: Option<&'a Referenced>,
    references: BTreeSet<Reference>,
    findings: Vec<Finding>,
    is_closed: bool,
}

/// An annotation that the object has and we know.
#[derive(Debug)]
struct Given<'a> {
    key: &'a str,
    rank: (bool, bool),
    known: &'static Known,
    value: &'a str,
    is_read: bool,
}

/// What reading has left behind.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    /// What there is to say about each annotation, by key.
    pub(crate) findings: Vec<Finding>,
    /// The objects that annotations name, there or not.
    pub(crate) references: BTreeSet<Reference>,
    /// Whether something that guards the routes cannot be carried out.
    pub(crate) is_closed: bool,
}

impl<'a> Annotations<'a> {
    /// The annotations of `ingress`, and `defaults` where it has none. The objects they name are looked up in `objects`;
    /// without it, as in a check of a file, those are taken on trust.
    pub fn new(
        ingress: &'a Ingress,
        objects: Option<&'a Referenced>,
        defaults: &'a Defaults,
    ) -> Self {
        Self {
            defaults,
            ..Self::among(known::find, ingress, objects)
        }
    }

    /// `defaults` without an Ingress.
    pub(crate) fn of_defaults(defaults: &'a Defaults) -> Self {
        Self {
            defaults,
            ..Self::nothing("", None)
        }
    }

    /// The entries of a ConfigMap in `namespace`, each as what it is known for, which may have another name. Objects are
    /// looked up as in [`new`](Self::new).
    pub(crate) fn of_entries(
        namespace: &'a str,
        entries: impl IntoIterator<Item = (&'a str, &'static Known, &'a str)>,
        objects: Option<&'a Referenced>,
    ) -> Self {
        let mut reader = Self::nothing(namespace, objects);
        for (key, known, value) in entries {
            reader.admit(key, (true, key == known.name), known, value);
        }
        reader
    }

    fn nothing(namespace: &'a str, objects: Option<&'a Referenced>) -> Self {
        Self {
            namespace,
            given: Vec::new(),
            defaults: &defaults::NONE,
            objects,
            references: BTreeSet::new(),
            findings: Vec::new(),
            is_closed: false,
        }
    }

    /// The same, where the annotations that `find` finds are those we know.
    fn among(
        find: impl Fn(&str) -> Option<&'static Known>,
        ingress: &'a Ingress,
        objects: Option<&'a Referenced>,
    ) -> Self {
        let namespace = ingress.metadata.namespace.as_deref();
        let mut reader = Self::nothing(namespace.unwrap_or("default"), objects);
        for (key, value) in ingress.metadata.annotations.iter().flatten() {
            reader.take(&find, key, value);
        }
        reader
    }

    /// Whether the object has no annotation that concerns us.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.findings.is_empty()
    }

    fn take(
        &mut self,
        find: impl Fn(&str) -> Option<&'static Known>,
        key: &'a str,
        value: &'a str,
    ) {
        let Some(name) = known::name(key) else { return };
        let Some(known) = find(name.name) else {
            let message = match known::nearest(name.name) {
                Some(other) => format!("no such annotation; is {other} meant?"),
                None => "no such annotation".to_owned(),
            };
            return self.note(key, Verdict::Invalid(message));
        };
        self.admit(key, name.rank, known, value);
    }

    /// Takes in what is known, unless it is refused.
    fn admit(&mut self, key: &'a str, rank: (bool, bool), known: &'static Known, value: &'a str) {
        if let Meaning::Refused { why, instead } = known.meaning {
            if value.trim().is_empty() || value::flag(value.trim()) == Ok(false) {
                return self.note(key, Verdict::Same);
            }
            self.is_closed |= known.is_guard;
            let why = why.to_owned();
            return self.note(key, Verdict::Refused { why, instead });
        }
        self.keep(Given {
            key,
            rank,
            known,
            value: value.trim(),
            is_read: false,
        });
    }

    /// Keeps `given`, or what is there for the same name if that is of higher rank.
    fn keep(&mut self, mut given: Given<'a>) {
        let name = given.known.name;
        let Some(other) = self.given.iter_mut().find(|other| other.known.name == name) else {
            return self.given.push(given);
        };
        if other.rank < given.rank {
            std::mem::swap(other, &mut given);
        }
        let how = format!("{} decides where both are set", other.key);
        self.note(given.key, Verdict::Differs(how));
    }

    fn note(&mut self, key: &str, verdict: Verdict) {
        self.findings.push(Finding {
            annotation: key.to_owned(),
            verdict,
        });
    }

    /// What is left to say once all parsers have asked.
    pub(crate) fn finish(mut self) -> Remarks {
        for given in std::mem::take(&mut self.given) {
            let verdict = match given.known.meaning {
                _ if self
                    .findings
                    .iter()
                    .any(|finding| finding.annotation == given.key) =>
                {
                    continue;
                }
                Meaning::Same if given.is_read => Verdict::Same,
                Meaning::Differs(how) if given.is_read => Verdict::Differs(how.to_owned()),
                Meaning::Moot(why) => Verdict::Differs(why.to_owned()),
                _ => Verdict::unsupported(),
            };
            self.is_closed |= given.known.is_guard && !given.is_read;
            self.note(given.key, verdict);
        }
        self.findings.sort();
        // Two parsers may ask for one annotation, and find the same fault.
        self.findings.dedup();
        Remarks {
            findings: self.findings,
            references: self.references,
            is_closed: self.is_closed,
        }
    }
}

// Any value, and remarks about it.

impl<'a> Annotations<'a> {
    /// What holds where nothing else is said.
    pub(crate) fn defaults(&self) -> &'a Defaults {
        self.defaults
    }

    /// The value of `name` as it stands.
    pub fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.own(name).or_else(|| self.default(name))
    }

    fn own(&mut self, name: &'static str) -> Option<&'a str> {
        let given = self.given(name)?;
        given.is_read = true;
        (!given.value.is_empty()).then_some(given.value)
    }

    fn default(&self, name: &'static str) -> Option<&'a str> {
        self.defaults.values.get(name).map(String::as_str)
    }

    /// The value of `name` as `parse` understands it.
    pub fn get<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&'a str) -> Result<T, E>,
    ) -> Option<T> {
        let own = self.own(name).map(&parse);
        let own = own.and_then(|own| own.map_err(|error| self.invalid(name, error)).ok());
        // Those by default are good.
        own.or_else(|| parse(self.default(name)?).ok())
    }

    /// Notes that the value of `name` cannot be used. If it guards the route, the route is closed.
    pub fn invalid(&mut self, name: &'static str, why: impl Display) {
        self.remark(name, Verdict::Invalid(why.to_string()));
    }

    /// Notes that what the value of `name` asks for is not done, and what is there in its place (may be empty).
    pub fn refuse(&mut self, name: &'static str, why: impl Display, instead: &'static str) {
        let why = why.to_string();
        self.remark(name, Verdict::Refused { why, instead });
    }

    /// Notes that the value of `name` means something else than in ingress-nginx.
    pub fn differs(&mut self, name: &'static str, how: impl Display) {
        self.remark(name, Verdict::Differs(how.to_string()));
    }

    fn remark(&mut self, name: &'static str, verdict: Verdict) {
        let Some(given) = self.given(name) else {
            return;
        };
        let (key, is_guard) = (given.key, given.known.is_guard);
        self.is_closed |= is_guard && !matches!(verdict, Verdict::Same | Verdict::Differs(_));
        self.note(key, verdict);
    }

    fn given(&mut self, name: &'static str) -> Option<&mut Given<'a>> {
        self.given.iter_mut().find(|given| given.known.name == name)
    }
}

// Typed values.

impl<'a> Annotations<'a> {
    /// A truth value, in the spellings that Go knows.
    pub fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.get(name, value::flag)
    }

    /// A number in `range`.
    pub fn number<T>(&mut self, name: &'static str, range: std::ops::RangeInclusive<T>) -> Option<T>
    where
        T: std::str::FromStr + PartialOrd + Display,
    {
        self.get(name, |text| value::number(text, &range))
    }

    /// A time: whole seconds, or with a unit as in `500ms`, `60s`, `5m`, `1h`.
    pub fn seconds(&mut self, name: &'static str) -> Option<Duration> {
        self.get(name, value::seconds)
    }

    /// A size in bytes, as nginx writes it: `8192`, `8k`, `1m`, `1g`.
    pub fn size(&mut self, name: &'static str) -> Option<u64> {
        self.get(name, value::size)
    }

    /// The elements of a list separated by commas; at least one.
    pub fn list(&mut self, name: &'static str) -> Option<Vec<&'a str>> {
        self.get(name, value::list)
    }

    /// A list of addresses and ranges of them.
    pub fn cidrs(&mut self, name: &'static str) -> Option<Vec<IpNetwork>> {
        self.get(name, value::cidrs)
    }

    /// One of `choices`, by its name.
    pub fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.get(name, |text| value::choice(text, choices))
    }

    /// The name of a header.
    pub fn header_name(&mut self, name: &'static str) -> Option<HeaderName> {
        self.get(name, value::header_name)
    }

    /// The value of a header.
    pub fn header_value(&mut self, name: &'static str) -> Option<HeaderValue> {
        self.get(name, value::header_value)
    }

    /// A regular expression, as it stands: without anchors, and telling upper from lower case.
    pub fn regex(&mut self, name: &'static str) -> Option<Pattern> {
        self.get(name, Pattern::new)
    }
}

// Objects that annotations name.

impl<'a> Annotations<'a> {
    /// The content of the Secret that `name` names, as `parse` understands it. It is nothing also where objects are taken
    /// on trust.
    pub fn secret<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Data) -> Result<T, E>,
    ) -> Option<T> {
        self.referenced(name, Reference::Secret, parse)
    }

    /// The content of the ConfigMap that `name` names, as `parse` understands it. It is nothing also where objects are
    /// taken on trust.
    pub fn config_map<T, E: Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Data) -> Result<T, E>,
    ) -> Option<T> {
        self.referenced(name, Reference::ConfigMap, parse)
    }

    /// The name of an object in the Ingress's own namespace, given as `NAME` or `NAMESPACE/NAME`. One in another
    /// namespace is bad: whoever may write Ingresses here need not be allowed to read there.
    pub fn object_name(&mut self, name: &'static str) -> Option<ObjectName> {
        let namespace = self.namespace;
        self.get(name, |text| value::object_name(text, namespace))
    }

    fn referenced<T, E: Display>(
        &mut self,
        name: &'static str,
        kind: impl FnOnce(ObjectName) -> Reference,
        parse: impl FnOnce(&Data) -> Result<T, E>,
    ) -> Option<T> {
        let reference = kind(self.object_name(name)?);
        self.content(name, reference, parse)
    }

    /// The content of `reference`, which `name` names, as `parse` understands it.
    pub(crate) fn content<T, E: Display>(
        &mut self,
        name: &'static str,
        reference: Reference,
        parse: impl FnOnce(&Data) -> Result<T, E>,
    ) -> Option<T> {
        self.references.insert(reference.clone());
        let parsed = match self.objects?.get(&reference) {
            Some(Seen::Present(data)) => {
                parse(data).map_err(|error| format!("{reference}: {error}"))
            }
            Some(Seen::Absent) => Err(format!("{reference} does not exist")),
            Some(Seen::Hidden(why)) => Err(format!("{reference} cannot be read: {why}")),
            None => Err(format!("{reference} has not been read yet")),
        };
        parsed.map_err(|why| self.invalid(name, why)).ok()
    }
}
