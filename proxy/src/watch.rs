//! Watches Services, EndpointSlices and this node, and passes on what they say.
//!
//! Three watches feed one channel. A list is passed on whole when it is complete, so that whatever went missing meanwhile
//! is found by comparison. A watch that breaks is begun again, with growing pauses; until then the last state stands. The
//! channel is bounded: a slow reader slows the watches down, and the API server does the buffering.

use std::fmt::Debug;
use std::pin::pin;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::Api;
use kube::core::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, Resource};
use model::kube::{Parsed, object_name};
use model::{Event, Node, ObjectName, Service, Slice};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Services that another proxy serves, and headless ones, are none of our business.
const SERVICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// The slices of headless Services are not either.
const SLICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// A kind of object, and how the model takes it.
trait Source {
    /// The kind.
    type Object: Resource<DynamicType = ()>
        + Clone
        + Debug
        + Send
        + serde::de::DeserializeOwned
        + 'static;
    /// The model's type.
    type Value;

    const KIND: &'static str;

    fn parse(object: &Self::Object) -> Parsed<Self::Value>;
    fn all(values: Vec<Self::Value>) -> Event;
    fn one(value: Self::Value) -> Event;
    fn gone(name: ObjectName) -> Event;
}

struct Services;
struct Slices;
struct Nodes;

impl Source for Services {
    type Object = core::Service;
    type Value = Service;

    const KIND: &'static str = "Service";

    fn parse(object: &Self::Object) -> Parsed<Service> {
        model::kube::service(object)
    }

    fn all(values: Vec<Service>) -> Event {
        Event::Services(values)
    }

    fn one(value: Service) -> Event {
        Event::Service(value)
    }

    fn gone(name: ObjectName) -> Event {
        Event::ServiceGone(name)
    }
}

impl Source for Slices {
    type Object = discovery::EndpointSlice;
    type Value = Slice;

    const KIND: &'static str = "EndpointSlice";

    fn parse(object: &Self::Object) -> Parsed<Slice> {
        model::kube::slice(object)
    }

    fn all(values: Vec<Slice>) -> Event {
        Event::Slices(values)
    }

    fn one(value: Slice) -> Event {
        Event::Slice(value)
    }

    fn gone(name: ObjectName) -> Event {
        Event::SliceGone(name)
    }
}

impl Source for Nodes {
    type Object = core::Node;
    type Value = Node;

    const KIND: &'static str = "Node";

    fn parse(object: &Self::Object) -> Parsed<Node> {
        model::kube::node(object)
    }

    fn all(values: Vec<Node>) -> Event {
        Event::Node(values.into_iter().next())
    }

    fn one(value: Node) -> Event {
        Event::Node(Some(value))
    }

    fn gone(_: ObjectName) -> Event {
        Event::Node(None)
    }
}

/// Watches until `shutdown` or until nobody listens to `events` any more.
pub async fn run(
    client: Client,
    node_name: String,
    events: mpsc::Sender<Event>,
    shutdown: CancellationToken,
) {
    let services = Config::default().labels(SERVICES);
    let slices = Config::default().labels(SLICES);
    let node = Config::default().fields(&format!("metadata.name={node_name}"));
    let all = async {
        tokio::join!(
            follow::<Services>(Api::all(client.clone()), services, &events),
            follow::<Slices>(Api::all(client.clone()), slices, &events),
            follow::<Nodes>(Api::all(client.clone()), node, &events),
        )
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = all => {}
    }
}

async fn follow<S: Source>(api: Api<S::Object>, config: Config, events: &mpsc::Sender<Event>) {
    let mut stream = pin!(stream::<S>(api, config));
    let mut listed = Vec::new();
    while let Some(seen) = stream.next().await {
        let event = match seen {
            Ok(seen) => take_in::<S>(seen, &mut listed),
            Err(error) => {
                warn!(
                    kind = S::KIND,
                    error = &error as &dyn std::error::Error,
                    "the watch broke; it is begun again"
                );
                continue;
            }
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            break;
        }
    }
}

fn stream<S: Source>(
    api: Api<S::Object>,
    config: Config,
) -> impl Stream<Item = Result<watcher::Event<S::Object>, watcher::Error>> {
    watcher(api, config).default_backoff().map_ok(|event| event)
}

/// What `seen` means to the model, if it is not just a part of a list.
fn take_in<S: Source>(
    seen: watcher::Event<S::Object>,
    listed: &mut Vec<S::Value>,
) -> Option<Event> {
    match seen {
        watcher::Event::Init => {
            listed.clear();
            None
        }
        watcher::Event::InitApply(object) => {
            listed.extend(parse::<S>(&object));
            None
        }
        watcher::Event::InitDone => {
            info!(kind = S::KIND, count = listed.len(), "listed");
            Some(S::all(std::mem::take(listed)))
        }
        // What cannot be used any more counts as gone.
        watcher::Event::Apply(object) => match parse::<S>(&object) {
            Some(value) => Some(S::one(value)),
            None => object_name(object.meta()).map(S::gone),
        },
        watcher::Event::Delete(object) => object_name(object.meta()).map(S::gone),
    }
}

fn parse<S: Source>(object: &S::Object) -> Option<S::Value> {
    let parsed = S::parse(object);
    for problem in &parsed.problems {
        warn!(%problem, version = object.resource_version(), "a part of an object is left out");
    }
    parsed.value
}
