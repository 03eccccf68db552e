//! GET of a collection with `watch=true`: what is there, if asked for, then every change, as one JSON object a line.
//!
//! A stream holds a cursor into the store's history and no queue. Watchers that see the same thing of a change share the
//! bytes. Bookmarks tell clients up to where they have seen everything; a client that has fallen behind the history is
//! told 410 and lists again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use control_schema::Resource;
use control_store::{Entry, Event, Query, ReadError, Revision, Watch};
use futures::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Call;
use super::filter::Selection;
use super::list::{list_options, parse_revision};
use super::render::{self, Include};
use crate::accept::Shape;
use crate::error::ApiError;
use crate::object;
use crate::query::Params;
use crate::respond::{self, Answer, BodyError};

/// No watch is asked to live longer, in seconds: a year.
const LONGEST_LIFETIME: u64 = 365 * 86_400;

/// How often a quiet watch gets a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch gets a last bookmark.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// How much of the initial objects is put into one chunk.
const CHUNK: usize = 64 << 10;

/// Answers a stream of events.
pub(crate) fn watch(call: &Call<'_>) -> Result<Answer, ApiError> {
    let target = call.target;
    let options = Options::parse(call.params)?;
    let selection = Selection::parse(target.res, &target.namespace, call.params)?;
    let viewer = Viewer {
        res: target.res,
        selection,
        shape: call.accept.shape,
        include: Include::parse(call.params),
    };
    let feed = Feed::open(call, options, viewer)?;
    let mut answer = Response::new(respond::streamed(feed.stream()));
    *answer.status_mut() = StatusCode::OK;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(answer)
}

/// The options of a watch.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// From where; none for now.
    from: Option<Revision>,
    /// Show what is there first.
    initial: bool,
    /// Say when the initial objects have all been shown.
    mark_initial_end: bool,
    bookmarks: bool,
    lifetime: Duration,
}

impl Options {
    fn parse(params: &Params) -> Result<Self, ApiError> {
        let revision = parse_revision(params)?.filter(|revision| revision.0 != 0);
        let given_zero_or_none = revision.is_none();
        let bookmarks = params.flag("allowWatchBookmarks");
        let rule = params.text("resourceVersionMatch");
        let send_initial = params
            .get("sendInitialEvents")
            .filter(|value| !value.is_empty());
        if send_initial.is_some() && rule != "NotOlderThan" {
            return Err(list_options(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if send_initial.is_none() && !rule.is_empty() {
            return Err(list_options(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents \
                 is provided",
            ));
        }
        let wants_initial = send_initial.map(|_| params.flag("sendInitialEvents"));
        let seconds = params
            .number("timeoutSeconds")?
            .and_then(|seconds| u64::try_from(seconds).ok());
        let lifetime = seconds
            .filter(|seconds| *seconds > 0)
            // A point in time that far away could not be reckoned with.
            .map(|seconds| seconds.min(LONGEST_LIFETIME))
            .unwrap_or_else(|| rand::rng().random_range(1800..3600));
        Ok(Self {
            from: revision,
            initial: wants_initial.unwrap_or(given_zero_or_none),
            mark_initial_end: wants_initial == Some(true) && bookmarks,
            bookmarks,
            lifetime: Duration::from_secs(lifetime),
        })
    }
}

/// What a watcher sees of entries and events.
#[derive(Debug)]
struct Viewer {
    res: &'static Resource,
    selection: Selection,
    shape: Shape,
    include: Include,
}

/// The types of events, in the order of the slots in which their bytes are shared.
const TYPES: [&str; 3] = ["ADDED", "MODIFIED", "DELETED"];
const ADDED: usize = 0;
const MODIFIED: usize = 1;
const DELETED: usize = 2;

impl Viewer {
    /// The line for a change, none if the watcher does not see it.
    fn line(&self, event: &Event) -> Option<Bytes> {
        let seen_before = event
            .before
            .as_deref()
            .is_some_and(|before| self.selection.matches(before));
        let seen_after = !event.deleted && self.selection.matches(&event.entry);
        let slot = match (seen_before, seen_after) {
            (false, false) => return None,
            (false, true) => ADDED,
            (true, true) => MODIFIED,
            (true, false) => DELETED,
        };
        if let (DELETED, false, Some(before)) = (slot, event.deleted, &event.before) {
            // It left the selection: the watcher is shown what it knew, at the revision at which that ended.
            let last = object::restamp(self.res, &before.value, event.revision());
            return Some(self.render(DELETED, last));
        }
        Some(match self.shape {
            Shape::Plain => event.rendered(slot, |entry| wrap(TYPES[slot], &entry.value)),
            _ => self.render(slot, event.entry.value.clone()),
        })
    }

    fn render(&self, slot: usize, value: Bytes) -> Bytes {
        wrap(
            TYPES[slot],
            &render::shaped(self.res, self.shape, self.include, value),
        )
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        wrap(
            "BOOKMARK",
            &render::to_bytes(&render::bookmark(
                self.res,
                self.shape,
                revision.0,
                initial_end,
            )),
        )
    }
}

fn wrap(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 32);
    line.put_slice(br#"{"type":""#);
    line.put_slice(kind.as_bytes());
    line.put_slice(br#"","object":"#);
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// A running watch.
struct Feed {
    viewer: Viewer,
    options: Options,
    initial: VecDeque<Arc<Entry>>,
    initial_done: bool,
    watch: Watch,
    deadline: Instant,
    next_bookmark: Instant,
    shutdown: CancellationToken,
    failed: bool,
    /// The error to begin with, when there is nothing to follow.
    refusal: Option<ReadError>,
}

impl Feed {
    fn open(call: &Call<'_>, options: Options, viewer: Viewer) -> Result<Self, ApiError> {
        let store = &call.api.store;
        let table = object::table(viewer.res);
        let current = store.revision();
        if let Some(from) = options.from.filter(|from| *from > current) {
            return Err(ApiError::future_revision(from.0, current.0));
        }
        let mut initial = VecDeque::new();
        let mut from = options.from.unwrap_or(current);
        if options.initial {
            let query = Query {
                table: &table,
                scope: viewer.selection.scope(),
                ..Query::default()
            };
            let page = store.list(&query).map_err(ApiError::internal)?;
            initial = page
                .entries
                .into_iter()
                .filter(|entry| viewer.selection.matches(entry))
                .collect();
            from = page.revision;
        }
        let (watch, refusal) = match store.watch(&table, from) {
            Ok(watch) => (watch, None),
            Err(refusal) => (
                store
                    .watch(&table, store.revision())
                    .map_err(ApiError::internal)?,
                Some(refusal),
            ),
        };
        let deadline = Instant::now() + options.lifetime;
        let mut feed = Self {
            viewer,
            options,
            initial,
            initial_done: !options.initial,
            watch,
            deadline,
            next_bookmark: deadline,
            shutdown: call.api.shutdown.clone(),
            failed: false,
            refusal,
        };
        feed.plan_bookmark();
        Ok(feed)
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        futures::stream::unfold(self, |mut feed| async move {
            feed.next().await.map(|chunk| (Ok(chunk), feed))
        })
    }

    /// The next chunk, none at the end. The initial objects come first, then changes as they happen.
    async fn next(&mut self) -> Option<Bytes> {
        if self.failed {
            return None;
        }
        if let Some(refusal) = self.refusal.take() {
            return Some(self.fail(refusal));
        }
        if !self.initial_done {
            return Some(self.initial_chunk());
        }
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.options.bookmarks => {
                    if let Some(chunk) = self.bookmark() {
                        return Some(chunk);
                    }
                }
                events = self.watch.next() => match events {
                    Ok(events) => {
                        if let Some(chunk) = self.lines(&events) {
                            return Some(chunk);
                        }
                    }
                    Err(error) => return Some(self.fail(error)),
                },
            }
        }
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut chunk = BytesMut::new();
        while let Some(entry) = self.initial.pop_front() {
            chunk.put_slice(&self.viewer.render(ADDED, entry.value.clone()));
            if chunk.len() >= CHUNK {
                return chunk.freeze();
            }
        }
        self.initial_done = true;
        if self.options.mark_initial_end {
            chunk.put_slice(&self.viewer.bookmark(self.watch.cursor(), true));
        }
        chunk.freeze()
    }

    fn lines(&self, events: &[Arc<Event>]) -> Option<Bytes> {
        let mut lines = events.iter().filter_map(|event| self.viewer.line(event));
        let first = lines.next()?;
        let Some(second) = lines.next() else {
            return Some(first);
        };
        let mut chunk = BytesMut::from(&first[..]);
        chunk.put_slice(&second);
        lines.for_each(|line| chunk.put_slice(&line));
        Some(chunk.freeze())
    }

    /// A bookmark of everything handed out, preceded by what has come in meanwhile.
    fn bookmark(&mut self) -> Option<Bytes> {
        self.plan_bookmark();
        let events = self.watch.pending().ok()?;
        let mut chunk = BytesMut::from(&self.lines(&events).unwrap_or_default()[..]);
        chunk.put_slice(&self.viewer.bookmark(self.watch.cursor(), false));
        Some(chunk.freeze())
    }

    fn plan_bookmark(&mut self) {
        let now = Instant::now();
        let last = self
            .deadline
            .checked_sub(BOOKMARK_BEFORE_END)
            .filter(|last| *last > now);
        // After the last one comes none: the deadline is first.
        let last = last.unwrap_or(self.deadline + BOOKMARK_EVERY);
        self.next_bookmark = last.min(now + BOOKMARK_EVERY);
    }

    fn fail(&mut self, error: ReadError) -> Bytes {
        self.failed = true;
        let status = match error {
            ReadError::Compacted { requested, oldest } => {
                ApiError::expired(format!("too old resource version: {requested} ({oldest})"))
                    .status()
            }
            ReadError::Future { requested, newest } => {
                ApiError::future_revision(requested.0, newest.0).status()
            }
        };
        let event: Value = json!({"type": "ERROR", "object": status});
        let mut line = serde_json::to_vec(&event).expect("a value is serialised into memory");
        line.push(b'\n');
        line.into()
    }
}
