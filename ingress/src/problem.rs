//! What is wrong with an Ingress, as a value: the object, the field and the fault.
//!
//! Whoever reads objects returns problems and goes on; nothing here stops traffic. They are reported where a user looks:
//! as Events on the Ingress, in the log and as a metric.

use std::fmt;
use std::sync::Arc;

use model::ObjectName;

/// An Ingress object, or the ConfigMap with the gateway's settings. Two objects of one name that existed one after the other differ in `uid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IngressRef {
    /// Its name.
    pub name: ObjectName,
    /// Its uid, empty if the API left it out.
    pub uid: Arc<str>,
}

/// Something in an Ingress that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object at fault.
    pub ingress: Arc<IngressRef>,
    /// The path of the field, like `spec.rules[0].http.paths[1].path`.
    pub field: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a field of an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Fault {
    /// The value breaks a rule of the API.
    #[error("{0}")]
    Invalid(String),
    /// The object asks for what is not done here.
    #[error("{0}")]
    Refused(String),
    /// A setting in a ConfigMap cannot be carried out.
    #[error("{0}")]
    Setting(String),
    /// Annotation and field name different classes.
    #[error(
        "annotation names class {annotation:?}, spec.ingressClassName {field:?}; the annotation decides"
    )]
    ClassMismatch {
        /// The annotation's class.
        annotation: String,
        /// The field's class.
        field: String,
    },
    /// An Ingress that comes first has the same.
    #[error("{what} is already taken by Ingress {owner}, which comes first")]
    Conflict {
        /// What both want.
        what: String,
        /// The one that has it.
        owner: ObjectName,
    },
    /// The Service does not exist.
    #[error("Service {0} does not exist; requests are answered with 503")]
    ServiceMissing(ObjectName),
    /// The Service has no such TCP port.
    #[error("Service {service} has no TCP port {port}; requests are answered with 503")]
    PortMissing {
        /// The Service.
        service: ObjectName,
        /// The port, by name or number.
        port: String,
    },
    /// The Service is an alias for a name outside the cluster.
    #[error(
        "Service {0} is of type ExternalName, which is not allowed; requests are answered with 503"
    )]
    ExternalName(ObjectName),
    /// The name outside the cluster cannot be looked up.
    #[error("cannot look up {name}, for which Service {service} stands: {why}; {instead}")]
    NameUnresolved {
        /// The Service.
        service: ObjectName,
        /// The name.
        name: String,
        /// Why.
        why: String,
        /// What becomes of requests.
        instead: Reached,
    },
    /// The name outside the cluster leads where backends may not be.
    #[error(
        "{name}, for which Service {service} stands, leads to {addresses}, where no backend may be; {instead}"
    )]
    NameRefused {
        /// The Service.
        service: ObjectName,
        /// The name.
        name: String,
        /// The addresses.
        addresses: String,
        /// What becomes of requests.
        instead: Reached,
    },
    /// The backend is an object other than a Service.
    #[error("a resource backend ({0}) is not supported; requests are answered with 503")]
    ResourceBackend(String),
    /// The Secret does not exist, or the gateway has no right to read it.
    #[error("there is no Secret {0}, or the gateway may not read it; {1}")]
    SecretMissing(ObjectName, Instead),
    /// The Secret's certificate or key cannot be used.
    #[error("Secret {secret}: {reason}; {instead}")]
    BadCertificate {
        /// The Secret.
        secret: ObjectName,
        /// Why.
        reason: String,
        /// What is served.
        instead: Instead,
    },
    /// The certificate is for other names.
    #[error(
        "the certificate in Secret {secret} does not cover {host}; clients that verify will refuse it"
    )]
    HostNotCovered {
        /// The Secret.
        secret: ObjectName,
        /// The host that it should cover.
        host: String,
    },
}

/// Where requests for a name outside the cluster go when something is wrong with where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reached {
    /// To the addresses that are known to be good.
    Others,
    /// Nowhere.
    Nothing,
}

/// What is served in place of a certificate that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Instead {
    /// The last one that could.
    LastGood,
    /// The gateway's own, self-signed.
    Default,
}

impl Fault {
    /// The fault's name, as the `reason` of an Event and the label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidField",
            Self::Refused(_) => "AnnotationRefused",
            Self::Setting(_) => "InvalidSetting",
            Self::ClassMismatch { .. } => "ClassMismatch",
            Self::Conflict { .. } => "Conflict",
            Self::ServiceMissing(_) => "ServiceNotFound",
            Self::PortMissing { .. } => "PortNotFound",
            Self::ExternalName(_) => "ExternalNameRefused",
            Self::NameUnresolved { .. } => "ExternalNameUnresolved",
            Self::NameRefused { .. } => "ExternalAddressRefused",
            Self::ResourceBackend(_) => "ResourceBackendUnsupported",
            Self::SecretMissing(..) => "SecretNotFound",
            Self::BadCertificate { .. } => "BadCertificate",
            Self::HostNotCovered { .. } => "CertificateNameMismatch",
        }
    }
}

impl Problem {
    /// The version and the kind of the object at fault.
    pub fn kind(&self) -> (&'static str, &'static str) {
        match self.fault {
            Fault::Setting(_) => ("v1", "ConfigMap"),
            _ => ("networking.k8s.io/v1", "Ingress"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.fault)
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Others => "requests go to the addresses that are known to be good",
            Self::Nothing => "requests are answered with 503",
        })
    }
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LastGood => "the last good certificate stays in use",
            Self::Default => "the default certificate is served",
        })
    }
}
