//! AdmissionReview of `admission.k8s.io/v1`: what the API server asks, and what it is answered.
//!
//! Only the fields that matter here. Whatever is not a question about an Ingress of ours is allowed.

use std::time::Instant;

use k8s_openapi::api::networking::v1::Ingress;
use model::ObjectName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::judgement::{Judgement, judge};
use crate::observe::reviews::Reviews;
use crate::routes::Table;
use crate::routes::class::Classes;
use crate::routes::ingress::reference;

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// What refuses, as a status of HTTP.
const BAD_REQUEST: u16 = 400;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadReview {
    /// It is no JSON, or not of this form.
    #[error("is no AdmissionReview: {0}")]
    Form(#[from] serde_json::Error),
    /// It is something else, or of another version.
    #[error("is {version} {kind}, not {VERSION} {KIND}")]
    Kind {
        /// Its `apiVersion`.
        version: String,
        /// Its `kind`.
        kind: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    kind: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

/// Answers the review in `body`, where Ingresses of `classes` are ours and `routes` are in effect, and counts it among
/// `reviews` if it is about one of ours.
pub(super) fn answer(
    body: &[u8],
    classes: &Classes,
    routes: &Table,
    reviews: &Reviews,
) -> Result<Vec<u8>, BadReview> {
    let began = Instant::now();
    let review: Review = serde_json::from_slice(body)?;
    if (&*review.api_version, &*review.kind) != (VERSION, KIND) {
        return Err(BadReview::Kind {
            version: review.api_version,
            kind: review.kind,
        });
    }
    let Request { ref uid, .. } = review.request;
    let uid = uid.clone();
    let (judged, judgement) = review.request.judge(classes, routes)?;
    let Judgement { refusals, warnings } = judgement;
    if let Some(ingress) = judged {
        reviews.count(ingress, !refusals.is_empty(), began.elapsed());
    }
    let status = (!refusals.is_empty()).then(|| Status {
        status: "Failure",
        code: BAD_REQUEST,
        reason: "BadRequest",
        message: refusals.join("; "),
    });
    let response = Response {
        uid,
        allowed: status.is_none(),
        status,
        warnings,
    };
    Ok(serde_json::to_vec(&Answer {
        api_version: VERSION,
        kind: KIND,
        response,
    })?)
}

impl Request {
    /// What there is to say, and about which Ingress if it is one of ours.
    fn judge(
        self,
        classes: &Classes,
        routes: &Table,
    ) -> Result<(Option<ObjectName>, Judgement), serde_json::Error> {
        let is_kept = matches!(&*self.operation, "CREATE" | "UPDATE");
        let is_ingress = self.kind.group == "networking.k8s.io" && self.kind.kind == "Ingress";
        if !is_kept || !is_ingress || !self.sub_resource.is_empty() {
            return Ok(Default::default());
        }
        let ingress: Ingress = serde_json::from_value(self.object)?;
        // One on its way out only loses its finalizers.
        if ingress.metadata.deletion_timestamp.is_some() || !classes.own(&ingress) {
            return Ok(Default::default());
        }
        let old: Option<Ingress> = serde_json::from_value(self.old_object)?;
        let old = old.filter(|old| classes.own(old));
        let judgement = judge(&ingress, old.as_ref(), routes);
        let name = reference(&ingress).name;
        if !judgement.refusals.is_empty() {
            let refusals = judgement.refusals.join("; ");
            tracing::info!(ingress = %name, %refusals, "an Ingress was refused");
        }
        Ok((Some(name), judgement))
    }
}
