//! Watches Services, EndpointSlices, ServiceCIDRs and this node, and passes on what they say. Of Services that are not
//! ours it passes on which have a cluster address: those addresses are not unknown.
//!
//! The watches feed one channel. A list is passed on whole when it is complete, so that whatever went missing meanwhile
//! is found by comparison. A watch that breaks is begun again, with growing pauses; until then the last state stands. The
//! channel is bounded: a slow reader slows the watches down, and the API server does the buffering.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::{Api, ListParams};
use kube::core::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, Resource};
use model::kube::{Parsed, object_name};
use model::{Event, Names, Node, ObjectName, Service, ServiceCidr, Slice, Unserved};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::events::{Events, Note};
use crate::lean;

/// Services that another proxy serves, and headless ones, are none of our business.
const SERVICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// Services of another proxy.
const OF_OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Services that a label calls headless, be they of another proxy or not.
const LABELLED_HEADLESS: &str = "service.kubernetes.io/headless";
/// The slices of headless Services are not either.
const SLICES: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// How long it takes until an API server that has no ServiceCIDRs, or lets us see none, is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// The same when it has not answered at all.
const RETRY: Duration = Duration::from_secs(5);

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
    /// Whether owners are told what cannot be used.
    const IS_TOLD: bool = false;

    fn parse(object: &Self::Object, names: &mut Names) -> Parsed<Self::Value>;
    fn all(values: Vec<Self::Value>) -> Event;
    fn one(value: Self::Value) -> Event;
    fn gone(name: ObjectName) -> Event;
}

struct Services;
struct Slices;
struct ServiceCidrs;
struct Nodes;

impl Source for Services {
    type Object = lean::Service;
    type Value = Service;

    const KIND: &'static str = "Service";
    const IS_TOLD: bool = true;

    fn parse(object: &Self::Object, names: &mut Names) -> Parsed<Service> {
        model::kube::service_sharing(&object.0, names)
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

/// Services that are not ours.
trait Foreign {
    const NAME: &'static str;
    const REASON: Unserved;
}

struct OfOtherProxy;
struct LabelledHeadless;

impl Foreign for OfOtherProxy {
    const NAME: &'static str = "Service of another proxy";
    const REASON: Unserved = Unserved::OtherProxy;
}

impl Foreign for LabelledHeadless {
    const NAME: &'static str = "Service labelled as headless";
    const REASON: Unserved = Unserved::Headless;
}

/// Only what has a cluster address is of interest.
impl<F: Foreign> Source for F {
    type Object = lean::Service;
    type Value = ObjectName;

    const KIND: &'static str = F::NAME;

    fn parse(object: &Self::Object, _: &mut Names) -> Parsed<ObjectName> {
        let spec = object.0.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
        let has_address = address.is_some_and(|address| !matches!(address, "" | "None"));
        let name = object_name(object.meta()).filter(|_| has_address);
        Parsed {
            value: name,
            problems: Vec::new(),
        }
    }

    fn all(values: Vec<ObjectName>) -> Event {
        Event::UnservedAll(F::REASON, values)
    }

    fn one(value: ObjectName) -> Event {
        Event::Unserved(F::REASON, value)
    }

    fn gone(name: ObjectName) -> Event {
        Event::UnservedGone(F::REASON, name)
    }
}

impl Source for Slices {
    type Object = lean::EndpointSlice;
    type Value = Slice;

    const KIND: &'static str = "EndpointSlice";

    fn parse(object: &Self::Object, names: &mut Names) -> Parsed<Slice> {
        model::kube::slice_sharing(&object.0, names)
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

impl Source for ServiceCidrs {
    type Object = networking::ServiceCIDR;
    type Value = ServiceCidr;

    const KIND: &'static str = "ServiceCIDR";

    fn parse(object: &Self::Object, _: &mut Names) -> Parsed<ServiceCidr> {
        model::kube::service_cidr(object)
    }

    fn all(values: Vec<ServiceCidr>) -> Event {
        Event::ServiceCidrs(values)
    }

    fn one(value: ServiceCidr) -> Event {
        Event::ServiceCidr(value)
    }

    fn gone(name: ObjectName) -> Event {
        Event::ServiceCidrGone(name)
    }
}

impl Source for Nodes {
    type Object = core::Node;
    type Value = Node;

    const KIND: &'static str = "Node";

    fn parse(object: &Self::Object, _: &mut Names) -> Parsed<Node> {
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

/// Where what is seen goes.
struct Listeners {
    seen: mpsc::Sender<Event>,
    events: Events,
}

/// Watches until `shutdown` or until nobody listens to what is `seen` any more. Owners of Services hear of what cannot be
/// used by `events`.
pub async fn run(
    client: Client,
    node_name: String,
    seen: mpsc::Sender<Event>,
    events: Events,
    shutdown: CancellationToken,
) {
    let services = Config::default().labels(SERVICES);
    let of_other_proxy = Config::default().labels(OF_OTHER_PROXY);
    let headless = Config::default().labels(LABELLED_HEADLESS);
    let slices = Config::default().labels(SLICES);
    let node = Config::default().fields(&format!("metadata.name={node_name}"));
    let listeners = Listeners { seen, events };
    let all = async {
        tokio::join!(
            follow::<Services>(Api::all(client.clone()), services, &listeners),
            follow::<OfOtherProxy>(Api::all(client.clone()), of_other_proxy, &listeners),
            follow::<LabelledHeadless>(Api::all(client.clone()), headless, &listeners),
            follow::<Slices>(Api::all(client.clone()), slices, &listeners),
            follow::<Nodes>(Api::all(client.clone()), node, &listeners),
            follow_service_cidrs(Api::all(client.clone()), &listeners),
        )
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = all => {}
    }
}

/// ServiceCIDRs are a kind that API servers have from 1.33 on (KEP-1880); elsewhere nobody knows the ranges.
async fn follow_service_cidrs(api: Api<networking::ServiceCIDR>, listeners: &Listeners) {
    loop {
        let wait = match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => {
                return follow::<ServiceCidrs>(api, Config::default(), listeners).await;
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                debug!(
                    code = status.code,
                    "the API server shows no ServiceCIDRs; unknown addresses in them are left alone"
                );
                if listeners
                    .seen
                    .send(Event::ServiceCidrs(Vec::new()))
                    .await
                    .is_err()
                {
                    return;
                }
                ASK_AGAIN
            }
            Err(error) => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "the API server does not tell of ServiceCIDRs yet"
                );
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn follow<S: Source>(api: Api<S::Object>, config: Config, listeners: &Listeners) {
    let mut stream = pin!(stream::<S>(api, config));
    let mut listed = Vec::new();
    let mut names = Names::default();
    while let Some(seen) = stream.next().await {
        let event = match seen {
            Ok(seen) => take_in::<S>(seen, &mut listed, &mut names, &listeners.events),
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
            && listeners.seen.send(event).await.is_err()
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
    names: &mut Names,
    events: &Events,
) -> Option<Event> {
    match seen {
        watcher::Event::Init => {
            listed.clear();
            None
        }
        watcher::Event::InitApply(object) => {
            listed.extend(parse::<S>(&object, names, events));
            None
        }
        watcher::Event::InitDone => {
            info!(kind = S::KIND, count = listed.len(), "listed");
            Some(S::all(std::mem::take(listed)))
        }
        // What cannot be used any more counts as gone.
        watcher::Event::Apply(object) => match parse::<S>(&object, names, events) {
            Some(value) => Some(S::one(value)),
            None => object_name(object.meta()).map(S::gone),
        },
        watcher::Event::Delete(object) => object_name(object.meta()).map(S::gone),
    }
}

fn parse<S: Source>(object: &S::Object, names: &mut Names, events: &Events) -> Option<S::Value> {
    let parsed = S::parse(object, names);
    for problem in &parsed.problems {
        warn!(%problem, version = object.resource_version(), "a part of an object is left out");
        if S::IS_TOLD
            && let Some(service) = object_name(object.meta())
        {
            events.warn(Note {
                service,
                uid: object.uid().map(String::into_boxed_str),
                reason: "FieldIgnored",
                message: format!("{}: {}", problem.field, problem.reason),
            });
        }
    }
    parsed.value
}
