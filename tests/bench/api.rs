//! An API server of a few hundred lines: lists in pages and watches of Services, EndpointSlices and one node, from
//! memory and in plain HTTP, so that what is measured is the daemon and not its server.
//!
//! It answers what a service proxy asks. Other collections are empty, and nothing ever happens to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use anyhow::{Context as _, Result};
use harness::Namespace;

use crate::objects::Cluster;

/// The version of every list. Nothing is ever compacted, so a watch may begin at any.
const VERSION: u32 = 1_000_000;

/// A collection of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
}

const KINDS: [Kind; 3] = [Kind::Services, Kind::Slices, Kind::Nodes];

/// A server, until dropped.
#[derive(Debug)]
pub(crate) struct Api {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    collections: [Mutex<Collection>; 3],
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Collection {
    objects: Vec<String>,
    watchers: Vec<TcpStream>,
}

/// When something was asked for and given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// The first request of all.
    pub(crate) asked: Option<Instant>,
    /// The last byte of the last list.
    pub(crate) listed: Option<Instant>,
}

struct Request {
    path: String,
    query: String,
}

impl Kind {
    const fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
        }
    }

    const fn type_meta(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("Service", "v1"),
            Self::Slices => ("EndpointSlice", "discovery.k8s.io/v1"),
            Self::Nodes => ("Node", "v1"),
        }
    }

    fn event(self, what: &str, object: &str) -> String {
        let (kind, version) = self.type_meta();
        let fields = object.strip_prefix('{').unwrap_or(object);
        format!(
            r#"{{"type":"{what}","object":{{"kind":"{kind}","apiVersion":"{version}",{fields}}}"#
        ) + "\n"
    }
}

impl Api {
    /// Serves `cluster` to the namespace of the node with `address`.
    pub(crate) fn start(
        namespace: &Namespace,
        cluster: &Cluster,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let listener = namespace
            .run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("listening for the daemon")?;
        let state = State::default();
        let all = 0..cluster.services;
        state.collection(Kind::Services).objects =
            all.clone().map(|number| cluster.service(number)).collect();
        state.collection(Kind::Slices).objects =
            all.map(|number| cluster.slice(number, u32::MAX)).collect();
        state.collection(Kind::Nodes).objects = vec![cluster.node(address)];
        let api = Self {
            address: listener.local_addr()?,
            state: Arc::new(state),
        };
        let state = Arc::downgrade(&api.state);
        std::thread::spawn(move || accept(&listener, &state));
        Ok(api)
    }

    /// A kubeconfig for it.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: main\n\
             clusters: [{{name: main, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: main, user: {{}}}}]\n\
             contexts: [{{name: main, context: {{cluster: main, user: main}}}}]\n",
            self.address
        )
    }

    /// When the daemon asked and was answered.
    pub(crate) fn times(&self) -> Times {
        *lock(&self.state.times)
    }

    /// Whether the collection is being watched.
    pub(crate) fn is_watched(&self, kind: Kind) -> bool {
        !self.state.collection(kind).watchers.is_empty()
    }

    /// Replaces an object and tells the watchers; returns the moment right before they were told.
    pub(crate) fn change(&self, kind: Kind, index: u32, object: String) -> Result<Instant> {
        let event = chunk(&kind.event("MODIFIED", &object));
        let mut collection = self.state.collection(kind);
        collection.objects[index as usize] = object;
        let now = Instant::now();
        for mut watcher in &collection.watchers {
            watcher
                .write_all(event.as_bytes())
                .context("the daemon has closed its watch")?;
        }
        Ok(now)
    }
}

impl State {
    fn collection(&self, kind: Kind) -> MutexGuard<'_, Collection> {
        lock(&self.collections[kind as usize])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until the server is dropped and somebody connects once more, or the process ends.
fn accept(listener: &TcpListener, state: &Weak<State>) {
    for stream in listener.incoming() {
        let (Ok(stream), Some(state)) = (stream, state.upgrade()) else {
            return;
        };
        std::thread::spawn(move || {
            if let Err(error) = serve(stream, &state) {
                eprintln!("measure: API server: {error:#}");
            }
        });
    }
}

/// Answers one request after another. A watch takes the connection over.
fn serve(mut stream: TcpStream, state: &State) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut reader)? {
        lock(&state.times).asked.get_or_insert_with(Instant::now);
        let kind = KINDS.into_iter().find(|kind| kind.path() == request.path);
        if request.parameter("watch").is_some() {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            match kind {
                Some(kind) => return watch(stream, state, kind, &request),
                // Nothing will ever happen: waits until the daemon closes.
                None => {
                    reader.read_to_end(&mut Vec::new())?;
                    return Ok(());
                }
            }
        }
        let body = match kind {
            Some(kind) => page(&state.collection(kind).objects, kind, &request),
            None => list("List", "v1", "", ""),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body.as_bytes())?;
        if kind.is_some() {
            lock(&state.times).listed = Some(Instant::now());
        }
    }
    Ok(())
}

/// The next request, its body skipped; nothing if the connection has ended.
fn read(reader: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut first = String::new();
    // A killed daemon resets its connections: not worth a word.
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return Ok(None);
    }
    let target = first.split(' ').nth(1).context("a request has a target")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut body = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(length) = line.strip_prefix("content-length:") {
            body = length.trim().parse()?;
        }
    }
    std::io::copy(&mut reader.by_ref().take(body), &mut std::io::sink())?;
    Ok(Some(Request {
        path: path.to_owned(),
        query: query.to_owned(),
    }))
}

impl Request {
    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, value)| *key == name && *value != "false")
            .map(|(_, value)| value)
            .next()
    }
}

fn page(objects: &[String], kind: Kind, request: &Request) -> String {
    let number = |name| request.parameter(name).and_then(|text| text.parse().ok());
    let from = number("continue").unwrap_or(0).min(objects.len());
    let to = objects
        .len()
        .min(from + number("limit").unwrap_or(objects.len()));
    let more = match objects.len() - to {
        0 => String::new(),
        left => format!(r#","continue":"{to}","remainingItemCount":{left}"#),
    };
    let (name, version) = kind.type_meta();
    list(
        &format!("{name}List"),
        version,
        &more,
        &objects[from..to].join(","),
    )
}

fn list(kind: &str, version: &str, more: &str, items: &str) -> String {
    format!(
        r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{{"resourceVersion":"{VERSION}"{more}}},"items":[{items}]}}"#
    )
}

/// Begins a watch: with all objects, if it was asked for so (KEP-3157), and then with what changes.
fn watch(mut stream: TcpStream, state: &State, kind: Kind, request: &Request) -> Result<()> {
    let mut collection = state.collection(kind);
    if request.parameter("sendInitialEvents").is_some() {
        for object in &collection.objects {
            stream.write_all(chunk(&kind.event("ADDED", object)).as_bytes())?;
        }
        let end = format!(
            r#"{{"metadata":{{"resourceVersion":"{VERSION}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}"#
        );
        stream.write_all(chunk(&kind.event("BOOKMARK", &end)).as_bytes())?;
        lock(&state.times).listed = Some(Instant::now());
    }
    collection.watchers.push(stream);
    Ok(())
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}
