//! Another answer in place of an error, where the Ingress names the statuses it does not want its clients to see.
//!
//! The default backend is asked with what it needs to know in headers, as ingress-nginx does it. It is asked with GET
//! and without a body: the client's may be on its way to the backend that failed.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tokio::time::Instant;

use crate::annotations::errors::Errors;
use crate::forward;
use crate::forward::attempts::{Attempts, Manner};
use crate::forward::exchange::Reply;
use crate::message::answer::Reason;
use crate::message::body::{Progress, RequestBody};
use crate::observe::record::Record;
use crate::routes::Route;
use crate::server::worker::Worker;
use crate::upstream::Upstream;

const CODE: HeaderName = HeaderName::from_static("x-code");
const FORMAT: HeaderName = HeaderName::from_static("x-format");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const NAMESPACE: HeaderName = HeaderName::from_static("x-namespace");
const INGRESS: HeaderName = HeaderName::from_static("x-ingress-name");
const SERVICE: HeaderName = HeaderName::from_static("x-service-name");

/// Fields that speak of the client's body, or of what it has of the answer that is replaced.
const ABOUT_THE_BODY: [HeaderName; 8] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    RANGE,
];

/// What the default backend is told of a request whose answer may be replaced.
pub struct Intercept<'r> {
    errors: &'r Errors,
    route: &'r Route,
    fallback: Option<&'r Arc<Upstream>>,
    headers: HeaderMap,
    target: Uri,
}

/// What the client gets in the end.
pub enum Answer {
    /// A backend's answer.
    Reply(Reply),
    /// Ours in place of one, and why.
    Own(Reason, Response<Full<Bytes>>),
}

impl<'r> Intercept<'r> {
    /// What there is to remember of a request to `route`, if any of its answers may be replaced. If it names nobody for
    /// that, `fallback` is asked.
    pub fn prepare(
        route: &'r Route,
        fallback: Option<&'r Arc<Upstream>>,
        parts: &Parts,
    ) -> Option<Self> {
        let errors = route.asks(|policy| &policy.errors)?;
        (!errors.intercepted.is_empty()).then(|| Self {
            errors,
            route,
            fallback: route.fallback.as_ref().or(fallback),
            headers: parts.headers.clone(),
            target: parts.uri.clone(),
        })
    }

    /// The answer, or another one if it is among the replaced.
    pub async fn judge(
        self,
        worker: &Rc<Worker>,
        answer: Result<Reply, Reason>,
        record: &mut Record,
    ) -> Result<Answer, Reason> {
        let status = match &answer {
            Ok(reply) => reply.status(),
            Err(reason) => reason.status(),
        };
        if !self.errors.intercepted.contains(&status) {
            return answer.map(Answer::Reply);
        }
        let reason = answer.err().unwrap_or(Reason::Intercepted);
        let Some(fallback) = self.fallback else {
            let mut own = reason.answer(http::Version::HTTP_11);
            *own.status_mut() = status;
            return Ok(Answer::Own(reason, own));
        };
        record.failed(reason);
        let (request, progress) = self.request(status);
        let manner = Manner::plain(worker);
        let mut attempts = Attempts::new(worker, fallback, manner, Instant::now());
        let replaced =
            forward::forward(worker, &mut attempts, request, progress, None, record).await;
        replaced.map(Answer::Reply)
    }
}

impl Intercept<'_> {
    /// What the default backend is asked.
    fn request(mut self, status: StatusCode) -> (Box<Request<RequestBody>>, Rc<Progress>) {
        for name in ABOUT_THE_BODY {
            self.headers.remove(name);
        }
        let format = self.headers.get(ACCEPT).cloned();
        let ingress = &self.route.ingress.name;
        let target = self
            .target
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let told = [
            (CODE, HeaderValue::from_str(status.as_str()).ok()),
            (FORMAT, format),
            (ORIGINAL_URI, HeaderValue::from_str(target).ok()),
            (NAMESPACE, HeaderValue::from_str(&ingress.namespace).ok()),
            (INGRESS, HeaderValue::from_str(&ingress.name).ok()),
            (SERVICE, HeaderValue::from_str(&self.route.service).ok()),
        ];
        for (name, value) in told {
            self.headers
                .insert(name, value.unwrap_or(HeaderValue::from_static("")));
        }
        let (body, progress) = RequestBody::nothing();
        let mut request = Box::new(Request::new(body));
        *request.headers_mut() = self.headers;
        (request, progress)
    }
}
