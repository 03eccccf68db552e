//! What is left to do for the answer to a request once its way in is behind it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use http_body_util::Full;

use super::compress::Coding;
use super::cors::{Cors, Marks};
use super::external_auth::carries_cookies;
use super::pace::Pace;
use crate::message::answer::Reason;

/// What the filters have noted for the answer.
#[derive(Debug, Default)]
pub struct Exit {
    /// Boxed, for most answers have nothing of it.
    notes: Option<Box<Notes>>,
}

#[derive(Debug, Default)]
struct Notes {
    /// What CORS says, whoever answers.
    cors: HeaderMap,
    cookies: Vec<HeaderValue>,
    with_every_status: bool,
    /// For an answer of our own.
    own: Vec<(HeaderName, HeaderValue)>,
    status: Option<StatusCode>,
    pace: Option<Pace>,
    coding: Option<Coding>,
}

// Taking notes.

impl Exit {
    fn notes(&mut self) -> &mut Notes {
        self.notes.get_or_insert_default()
    }

    /// The answer is marked for browsers.
    pub fn mark(&mut self, cors: &Cors, marks: &Marks) {
        cors.mark(marks, &mut self.notes().cors);
    }

    /// The answer carries cookies: with every status, or only with those that nginx finds fit.
    pub fn set_cookies(&mut self, cookies: Vec<HeaderValue>, with_every_status: bool) {
        if !cookies.is_empty() {
            let notes = self.notes();
            notes.cookies = cookies;
            notes.with_every_status = with_every_status;
        }
    }

    /// A backend's answer is sent no faster than this.
    pub fn limit_pace(&mut self, pace: Pace) {
        self.notes().pace = Some(pace);
    }

    /// A backend's answer may be compressed with `coding`.
    pub fn may_compress(&mut self, coding: Option<Coding>) {
        if coding.is_some() {
            self.notes().coding = coding;
        }
    }

    /// Our answer says how to authenticate.
    pub fn challenge(&mut self, challenges: impl IntoIterator<Item = HeaderValue>) {
        let fields = challenges
            .into_iter()
            .map(|challenge| (WWW_AUTHENTICATE, challenge));
        self.notes().own.extend(fields);
    }

    /// Our answer says where to go.
    pub fn redirect(&mut self, location: HeaderValue) {
        self.notes().own.push((LOCATION, location));
    }

    /// Our answer says when to try again: in whole seconds, and not at once.
    pub fn retry_after(&mut self, wait: Duration) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.notes().own.push((RETRY_AFTER, seconds.max(1).into()));
    }

    /// Our answer has this status instead of its reason's.
    pub fn answer_with(&mut self, status: StatusCode) {
        self.notes().status = Some(status);
    }
}

// Answering.

impl Exit {
    /// How fast a backend's answer is sent, if that is limited.
    pub fn pace(&self) -> Option<Pace> {
        self.notes.as_ref()?.pace
    }

    /// What a backend's answer may be compressed with.
    pub fn coding(&self) -> Option<Coding> {
        self.notes.as_ref()?.coding
    }

    /// Our own answer for `reason`.
    pub fn answer(&self, reason: Reason, version: Version) -> Response<Full<Bytes>> {
        let Some(notes) = &self.notes else {
            return reason.answer(version);
        };
        let mut response = reason.answer_with(notes.status.unwrap_or(reason.status()), version);
        for (name, value) in &notes.own {
            response.headers_mut().append(name, value.clone());
        }
        let status = response.status();
        self.finish(status, response.headers_mut());
        response
    }

    /// Completes the headers of an answer with `status`.
    pub fn finish(&self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(notes) = &self.notes else { return };
        for (name, value) in &notes.cors {
            match *name {
                http::header::VARY => drop(headers.append(name, value.clone())),
                _ => drop(headers.insert(name, value.clone())),
            }
        }
        if notes.with_every_status || carries_cookies(status) {
            for cookie in &notes.cookies {
                headers.append(SET_COOKIE, cookie.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(exit: &Exit, status: u16) -> usize {
        let mut headers = HeaderMap::new();
        exit.finish(
            StatusCode::from_u16(status).unwrap_or_default(),
            &mut headers,
        );
        headers.get_all(SET_COOKIE).iter().count()
    }

    #[test]
    fn cookies_go_with_the_statuses_that_nginx_finds_fit_or_with_all() {
        let mut exit = Exit::default();
        let both = vec![
            HeaderValue::from_static("a=1"),
            HeaderValue::from_static("b=2"),
        ];
        exit.set_cookies(both.clone(), false);
        assert_eq!(
            [200, 302, 404, 500].map(|status| cookies(&exit, status)),
            [2, 2, 0, 0]
        );
        exit.set_cookies(both, true);
        assert_eq!(
            [200, 404, 500].map(|status| cookies(&exit, status)),
            [2, 2, 2]
        );
    }

    #[test]
    fn our_own_answer_says_what_was_noted() {
        let mut exit = Exit::default();
        exit.retry_after(Duration::from_millis(1500));
        exit.answer_with(StatusCode::SERVICE_UNAVAILABLE);
        exit.challenge(["Basic", "Bearer"].map(HeaderValue::from_static));
        let answer = exit.answer(Reason::RateLimited, Version::HTTP_11);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
        assert_eq!(answer.headers().get_all(WWW_AUTHENTICATE).iter().count(), 2);
        let plain = Exit::default().answer(Reason::RateLimited, Version::HTTP_11);
        assert_eq!(plain.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}
