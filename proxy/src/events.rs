//! Events about Services, which `kubectl describe` shows to whoever owns them.
//!
//! Whoever has something to say leaves a note and goes on: the queue is bounded, and a note that finds no room is lost,
//! as is one that the API server does not take. The same is not said again for a while, and nothing is said too fast.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use model::ServiceName;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many notes may wait.
const QUEUE: usize = 256;
/// How many may be posted in a row, and how long it takes until there may be one more.
const BURST: u32 = 25;
const PACE: Duration = Duration::from_secs(2);
/// How long the same is not said again.
const MEMORY: Duration = Duration::from_secs(600);
/// The longest that posting one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where notes are left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    notes: mpsc::Sender<Note>,
}

/// The notes that were left.
#[derive(Debug)]
pub struct Notes(mpsc::Receiver<Note>);

/// Something that the owner of a Service should know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Note {
    /// The Service.
    pub service: ServiceName,
    /// Which of that name.
    pub uid: Option<Box<str>>,
    /// Why, in a word.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
}

/// How fast notes may be posted: a bucket that fills up slowly.
#[derive(Debug)]
struct Pace {
    left: u32,
    filled: Instant,
}

impl Events {
    /// A place to leave notes, and those that were left there.
    pub fn channel() -> (Self, Notes) {
        let (notes, left) = mpsc::channel(QUEUE);
        (Self { notes }, Notes(left))
    }

    /// Leaves `note`.
    pub fn warn(&self, note: Note) {
        if let Err(error) = self.notes.try_send(note) {
            debug!(
                error = &error as &dyn std::error::Error,
                "an event is not told"
            );
        }
    }
}

impl Notes {
    /// The next one; nothing once nobody can leave any more.
    pub async fn next(&mut self) -> Option<Note> {
        self.0.recv().await
    }
}

/// Posts `notes` from the node called `node` until `shutdown`.
pub async fn run(client: Client, node: String, notes: Notes, shutdown: CancellationToken) {
    let told = tell(client, node, notes);
    shutdown.run_until_cancelled_owned(told).await;
}

async fn tell(client: Client, node: String, mut notes: Notes) {
    let mut told: HashMap<Note, Instant> = HashMap::new();
    let mut pace = Pace {
        left: BURST,
        filled: Instant::now(),
    };
    while let Some(note) = notes.next().await {
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < MEMORY);
        if told.contains_key(&note) || !pace.may_go(now) {
            debug!(service = %note.service, note.message, "an event is not told");
            continue;
        }
        let posted = tokio::time::timeout(PATIENCE, post(&client, &node, &note)).await;
        match posted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(
                error = &error as &dyn std::error::Error,
                "an event was not taken"
            ),
            Err(_) => debug!("an event was not taken in time"),
        }
        told.insert(note, now);
    }
    // Nobody will say anything any more, which is no reason to end before the others.
    std::future::pending().await
}

async fn post(client: &Client, node: &str, note: &Note) -> Result<(), Error> {
    let events = Api::<Event>::namespaced(client.clone(), &note.service.namespace);
    let event = event(node, note, SystemTime::now());
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

fn event(node: &str, note: &Note, now: SystemTime) -> Event {
    let (namespace, name) = (&note.service.namespace, &note.service.name);
    let nanoseconds = now.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos());
    let time = Timestamp::try_from(now).ok().map(Time);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{nanoseconds:x}")),
            namespace: Some(namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(namespace.to_string()),
            name: Some(name.to_string()),
            uid: note.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        count: Some(1),
        first_timestamp: time.clone(),
        last_timestamp: time,
        source: Some(EventSource {
            component: Some("portolan-proxy".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("portolan-proxy".to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

impl Pace {
    fn may_go(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs() / PACE.as_secs();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained > 0 {
            self.left = BURST.min(self.left.saturating_add(gained));
            self.filled = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_and_then_one_at_a_time() {
        let now = Instant::now();
        let mut pace = Pace {
            left: BURST,
            filled: now,
        };
        let told = (0..100).filter(|_| pace.may_go(now)).count();
        assert_eq!(told, BURST as usize);
        assert!(!pace.may_go(now + PACE / 2));
        assert!(pace.may_go(now + PACE));
        assert!(!pace.may_go(now + PACE));
    }

    #[test]
    fn a_note_that_finds_no_room_is_lost_and_nobody_waits() {
        let (events, mut notes) = Events::channel();
        let note = Note {
            service: ServiceName::new("shop", "web"),
            uid: None,
            reason: "Test",
            message: String::new(),
        };
        for _ in 0..2 * QUEUE {
            events.warn(note.clone());
        }
        let left = std::iter::from_fn(|| notes.0.try_recv().ok()).count();
        assert_eq!(left, QUEUE);
    }
}
