//! Why a reconciliation failed. Every failure is retried; none is fatal to the controllers.

use std::path::PathBuf;

/// Why a step of the controllers failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("API request failed: {0}")]
    Api(#[from] kube::Error),
    /// A label selector in an object cannot be evaluated.
    #[error("cannot evaluate the label selector: {0}")]
    Selector(String),
    /// The root CA given on the command line cannot be read.
    #[error("cannot read the root CA {path}")]
    RootCa {
        /// The file named.
        path: PathBuf,
        /// What reading it gave.
        #[source]
        source: std::io::Error,
    },
    /// The cluster CIDRs and node mask sizes do not fit together.
    #[error("cluster CIDR {cidr} cannot be cut into ranges of /{mask}")]
    NodeMask {
        /// The cluster CIDR.
        cidr: ipnetwork::IpNetwork,
        /// The node mask size asked for.
        mask: u8,
    },
    /// Every pod range of a cluster CIDR is taken.
    #[error("no free pod range left in {0}")]
    RangesExhausted(ipnetwork::IpNetwork),
    /// An object can be handled only after its dependents are gone.
    #[error("{0}")]
    NotYet(String),
}

/// The code of the API's refusal, if it was one.
fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The API said that the object does not exist.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

/// The API said that the object has changed, or exists already.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

/// The API said that an object of this name exists already.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// The API refused because the object's namespace is being deleted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    status.code == 403
        && (causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated"))
}

/// The API's own words, without the client's wrapping; these go into events and conditions.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Takes "not found" as nothing to answer: what should be gone is gone.
pub(crate) fn unless_gone<T>(outcome: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes "not found" as success.
pub(crate) fn gone_is_fine<T>(outcome: Result<T, kube::Error>) -> Result<(), kube::Error> {
    unless_gone(outcome).map(|_| ())
}
