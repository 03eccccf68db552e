//! What there is to say about an annotation: to the user of an Ingress as an Event, to one who moves from ingress-nginx
//! as a line of `lint`.

use std::fmt;
use std::sync::Arc;

use crate::problem::{Fault, IngressRef, Problem};

/// What becomes of one annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Its key: with prefix that of an Ingress, without that of a ConfigMap.
    pub annotation: String,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of an annotation, compared with ingress-nginx.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The same.
    Same,
    /// Something else, and what.
    Differs(String),
    /// Nothing, on purpose.
    Refused {
        /// Why.
        why: String,
        /// What there is in its place; empty if there is nothing.
        instead: &'static str,
    },
    /// Nothing, because its value cannot be used.
    Invalid(String),
}

impl Verdict {
    /// That nothing is done about it.
    pub(crate) fn unsupported() -> Self {
        Self::Refused {
            why: "is not supported".to_owned(),
            instead: "",
        }
    }

    /// The verdict in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Refused { .. } => "refused",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("as in ingress-nginx"),
            Self::Differs(text) | Self::Invalid(text) => f.write_str(text),
            Self::Refused { why, instead: "" } => f.write_str(why),
            Self::Refused { why, instead } => write!(f, "{why}; {instead}"),
        }
    }
}

impl Finding {
    /// Whether what is asked for is not done.
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Refused { .. } | Verdict::Invalid(_))
    }

    /// What is wrong with the ConfigMap `map` that has the gateway's settings, if this is something wrong.
    pub fn problem_of_settings(&self, map: &Arc<IngressRef>) -> Option<Problem> {
        let is_bad = self.is_bad();
        is_bad.then(|| Problem {
            ingress: map.clone(),
            field: format!("data[{}]", self.annotation),
            fault: Fault::Setting(self.verdict.to_string()),
        })
    }

    /// What is wrong with `ingress`, if this is something wrong.
    pub fn problem(&self, ingress: &Arc<IngressRef>) -> Option<Problem> {
        let fault = match &self.verdict {
            Verdict::Same | Verdict::Differs(_) => return None,
            Verdict::Refused { .. } => Fault::Refused(self.verdict.to_string()),
            Verdict::Invalid(why) => Fault::Invalid(why.clone()),
        };
        Some(Problem {
            ingress: ingress.clone(),
            field: format!("metadata.annotations[{}]", self.annotation),
            fault,
        })
    }
}
