//! Asking an external authentication service, or remembering what it said.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;

use super::Visit;
use super::external_auth::{Cache, ExternalAuth, Verdict};
use super::memory::{Memory, Question};
use super::outbound;
use crate::message::variables::Facts;
use crate::observe::record::Record;

/// Answers that are remembered.
const REMEMBERED: usize = 16_384;

/// The answers of services, shared by all threads.
#[derive(Debug)]
pub struct Answers(Memory<Arc<Verdict>>);

impl Answers {
    /// No answers yet.
    pub fn new() -> Self {
        Self(Memory::new(REMEMBERED))
    }

    /// Requests are the same to a service if they are for one host and Ingress and have one key.
    fn question(&self, auth: &ExternalAuth, cache: &Cache, facts: Facts<'_>) -> Question {
        let (ingress, key) = (facts.ingress.to_string(), cache.key.fill(facts));
        let url = auth
            .url
            .fill(facts)
            .map(|url| url.to_string())
            .unwrap_or_default();
        let parts = [facts.host, &ingress, &url, &key].map(str::as_bytes);
        self.0.question(&parts)
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

/// What the service says about the request with the head `parts`. The question is noted in the request's `record`.
pub async fn ask(
    visit: &Visit<'_>,
    auth: &ExternalAuth,
    parts: &Parts,
    record: &mut Record,
) -> Verdict {
    let facts = visit.facts(parts);
    let Some(mut question) = auth.question(facts) else {
        return Verdict::Fail;
    };
    let answers = &visit.worker.shared().filters.answers;
    let cache = auth
        .cache
        .as_ref()
        .map(|cache| (cache, answers.question(auth, cache, facts)));
    let known = cache.and_then(|(_, asked)| answers.0.get(asked, Instant::now()));
    if let Some(known) = known {
        return (*known).clone();
    }
    record.asks(&mut question);
    let limit = visit.settings.backend_timeout;
    let call = visit
        .worker
        .outbound()
        .call(question.map(|()| outbound::empty()), limit);
    let answer = call.await;
    record.told(answer.as_ref().ok().map(|answer| answer.status));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(ingress = %facts.ingress, %error, "external authentication failed");
            return Verdict::Fail;
        }
    };
    let verdict = auth.verdict(answer.status, &answer.headers);
    if let Some((cache, asked)) = cache
        && let Some(duration) = cache.duration(answer.status, &answer.headers)
    {
        answers
            .0
            .put(asked, Arc::new(verdict.clone()), Instant::now() + duration);
    }
    verdict
}
