//! Who may do what: a static table for the cluster's own users. Masters may do everything, everybody known may discover and
//! review themselves, everybody may ask for version and health.

use control_schema::Resource;

use crate::error::ApiError;
use crate::identity::{AUTHENTICATED, MASTERS, User};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// A path that is no resource.
    Path {
        /// The verb in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
    /// A resource.
    Resource(Attributes<'a>),
}

/// A request for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) sub: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// One line of the table.
struct Rule {
    verbs: &'static [&'static str],
    /// `plural` or `plural/subresource`; names are unique over our groups.
    resources: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];
const ALL: &[&str] = &["*"];

const EVENTS: Rule = Rule {
    verbs: &["create", "update", "patch"],
    resources: &["events"],
};

const NODE: &[Rule] = &[
    Rule {
        verbs: READ,
        resources: &[
            "nodes",
            "pods",
            "services",
            "endpoints",
            "endpointslices",
            "configmaps",
            "secrets",
            "serviceaccounts",
            "namespaces",
            "leases",
        ],
    },
    Rule {
        verbs: WRITE,
        resources: &["nodes", "pods", "leases"],
    },
    Rule {
        verbs: &["update", "patch"],
        resources: &["nodes/status", "pods/status"],
    },
    Rule {
        verbs: &["create"],
        resources: &[
            "serviceaccounts/token",
            "tokenreviews",
            "subjectaccessreviews",
        ],
    },
    EVENTS,
];

const PROXY: &[Rule] = &[
    Rule {
        verbs: READ,
        resources: &[
            "nodes",
            "services",
            "endpoints",
            "endpointslices",
            "servicecidrs",
        ],
    },
    EVENTS,
];

const INGRESS: &[Rule] = &[
    Rule {
        verbs: READ,
        resources: &[
            "ingresses",
            "ingressclasses",
            "services",
            "endpoints",
            "endpointslices",
            "secrets",
            "configmaps",
            "namespaces",
            "nodes",
            "pods",
        ],
    },
    Rule {
        verbs: &["get", "update", "patch"],
        resources: &["ingresses/status"],
    },
    Rule {
        verbs: ALL,
        resources: &["leases"],
    },
    EVENTS,
];

const CONTROLLERS: &[Rule] = &[Rule {
    verbs: ALL,
    resources: ALL,
}];

const SELF_REVIEW: &[Rule] = &[Rule {
    verbs: &["create"],
    resources: &[
        "selfsubjectreviews",
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
    ],
}];

/// Paths anybody may read.
const PUBLIC: &[&str] = &["/version", "/healthz", "/livez", "/readyz"];
/// Paths anybody known may read.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];

/// Whether `user` may do what is asked.
pub(crate) fn allows(user: &User, request: &Request<'_>) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    match request {
        Request::Path { verb, path } => *verb == "get" && may_read(user, path),
        Request::Resource(attributes) => rules(user).any(|rule| rule.covers(attributes)),
    }
}

fn may_read(user: &User, path: &str) -> bool {
    let below = |prefixes: &[&str]| {
        prefixes.iter().any(|prefix| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    below(PUBLIC)
        || (user.is_in(AUTHENTICATED) && (below(DISCOVERY) || path == "/"))
        || (user.name == "system:kube-controller-manager" && path == "/metrics")
}

fn rules(user: &User) -> impl Iterator<Item = &'static Rule> {
    let own: &[Rule] = match user.name.as_str() {
        "system:kube-controller-manager" | "system:kube-scheduler" => CONTROLLERS,
        "system:kube-proxy" => PROXY,
        "portolan-ingress" => INGRESS,
        name if name.starts_with("system:node:") && user.is_in("system:nodes") => NODE,
        _ => &[],
    };
    let shared = if user.is_in(AUTHENTICATED) {
        SELF_REVIEW
    } else {
        &[]
    };
    own.iter().chain(shared)
}

impl Rule {
    fn covers(&self, attributes: &Attributes<'_>) -> bool {
        let has = |list: &[&str], wanted: &dyn Fn(&str) -> bool| {
            list.iter().any(|item| *item == "*" || wanted(item))
        };
        has(self.verbs, &|verb| verb == attributes.verb)
            && has(self.resources, &|resource| match resource.split_once('/') {
                Some((plural, sub)) => plural == attributes.plural && sub == attributes.sub,
                None => resource == attributes.plural && attributes.sub.is_empty(),
            })
    }
}

/// The refusal, in upstream's words.
pub(crate) fn refusal(user: &User, request: &Request<'_>, res: Option<&Resource>) -> ApiError {
    match (request, res) {
        (Request::Resource(attributes), Some(res)) => {
            ApiError::forbidden(res, attributes.name, denial(user, attributes))
        }
        (Request::Resource(attributes), None) => ApiError::new(
            403,
            "Forbidden",
            format!("forbidden: {}", denial(user, attributes)),
        ),
        (Request::Path { verb, path }, _) => ApiError::new(
            403,
            "Forbidden",
            format!(
                "forbidden: User {:?} cannot {verb} path {path:?}",
                user.name
            ),
        ),
    }
}

fn denial(user: &User, attributes: &Attributes<'_>) -> String {
    let Attributes {
        verb,
        group,
        plural,
        sub,
        namespace,
        ..
    } = attributes;
    let resource = if sub.is_empty() {
        (*plural).to_owned()
    } else {
        format!("{plural}/{sub}")
    };
    let place = match *namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
        user.name
    )
}
