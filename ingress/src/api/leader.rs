//! One leader among several gateways: who holds a Lease writes statuses.
//!
//! The rules are those of client-go's leader election, so a gateway can take turns with anything that keeps to them. The
//! holder renews; anybody may take over a Lease that has not changed for as long as it says it lasts, by the taker's own
//! clock, so clocks need not agree. Every write names the version it replaces, so of two takers one fails. A holder that
//! cannot renew in time steps down before others may take over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::IngressArgs;

/// Who takes part in which election.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub lease: String,
    /// What this gateway is called in it; no other may be called the same.
    pub identity: String,
    /// How long things take.
    pub timing: Timing,
}

/// The times of an election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long the Lease lasts without being renewed.
    pub lasts: Duration,
    /// How long the holder may fail to renew before it steps down; less than `lasts`.
    pub patience: Duration,
    /// How long to wait between two attempts.
    pub pause: Duration,
}

impl Timing {
    /// The times that go with a Lease that `lasts` so long, in client-go's proportions: 15, 10 and 2 seconds.
    fn of(lasts: Duration) -> Self {
        Self {
            lasts,
            patience: lasts * 2 / 3,
            pause: lasts * 2 / 15,
        }
    }
}

/// The Lease as it was last seen, and since when it has been so.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is ours: say so again.
    Renew,
    /// It is nobody's any more.
    Take,
    /// It is another's.
    Wait,
}

/// Takes part in the election until `shutdown`, keeps `leads` at whether it is won, and lets go of the Lease at the end,
/// so that another can take it at once.
pub async fn run(
    client: Client,
    candidate: Candidate,
    leads: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let api = Api::<Lease>::namespaced(client, &candidate.namespace);
    let Timing {
        patience, pause, ..
    } = candidate.timing;
    let mut seen = None;
    let mut renewed = Instant::now();
    let mut told = None;
    loop {
        let begun = Instant::now();
        match timeout(patience, candidate.attempt(&api, &mut seen)).await {
            Ok(Ok(is_ours)) => {
                renewed = begun;
                told = None;
                candidate.announce(&leads, is_ours);
            }
            Ok(Err(error)) => tell_once(&mut told, error.to_string()),
            Err(_) => tell_once(&mut told, "the API does not answer".to_owned()),
        }
        if renewed.elapsed() >= patience {
            candidate.announce(&leads, false);
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
    }
    let was_ours = leads.send_replace(false);
    if was_ours && let Err(error) = candidate.release(&api).await {
        tracing::warn!(%error, "cannot let go of the Lease");
    }
}

/// Says what keeps this gateway from the Lease, unless that is what it said last: it is tried every few seconds.
fn tell_once(told: &mut Option<String>, trouble: String) {
    if told.as_ref() != Some(&trouble) {
        tracing::warn!(
            error = trouble,
            "cannot read or write the Lease; it is tried again"
        );
        *told = Some(trouble);
    }
}

impl Candidate {
    /// The candidate that `args` describe; the Lease is in `namespace` if they do not say where.
    pub fn new(args: &IngressArgs, namespace: &str) -> Self {
        let given = args.election_namespace.as_deref();
        Self {
            namespace: given.unwrap_or(namespace).to_owned(),
            lease: args.election_id.clone(),
            // Two processes of one name must not take each other for themselves.
            identity: format!("{}_{:016x}", args.pod_name, rand::random::<u64>()),
            timing: Timing::of(args.election_ttl),
        }
    }

    fn announce(&self, leads: &watch::Sender<bool>, is_ours: bool) {
        let changed = leads.send_if_modified(|leads| std::mem::replace(leads, is_ours) != is_ours);
        if changed {
            let Self {
                lease, identity, ..
            } = self;
            tracing::info!(lease, identity, leads = is_ours, "leader election");
        }
    }

    /// Makes one step. Says whether the Lease is ours after it.
    async fn attempt(&self, api: &Api<Lease>, seen: &mut Option<Seen>) -> kube::Result<bool> {
        let Some(lease) = api.get_opt(&self.lease).await? else {
            let created = api.create(&PostParams::default(), &self.new_lease()).await;
            return won(created);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        if seen.as_ref().is_none_or(|seen| seen.version != version) {
            let since = Instant::now();
            *seen = Some(Seen { version, since });
        }
        let age = seen
            .as_ref()
            .map_or(Duration::ZERO, |seen| seen.since.elapsed());
        let spec = match step(&spec, &self.identity, age) {
            Step::Wait => return Ok(false),
            Step::Renew => self.renewed(spec),
            Step::Take => self.taken(&spec),
        };
        let lease = Lease {
            spec: Some(spec),
            ..lease
        };
        won(api
            .replace(&self.lease, &PostParams::default(), &lease)
            .await)
    }

    fn new_lease(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_transitions: Some(0),
                ..self.taken(&LeaseSpec::default())
            }),
        }
    }

    fn taken(&self, before: &LeaseSpec) -> LeaseSpec {
        let seconds = i32::try_from(self.timing.lasts.as_secs().max(1)).unwrap_or(i32::MAX);
        let now = MicroTime(jiff::Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(1)),
            ..before.clone()
        }
    }

    fn renewed(&self, before: LeaseSpec) -> LeaseSpec {
        LeaseSpec {
            renew_time: Some(MicroTime(jiff::Timestamp::now())),
            ..before
        }
    }

    /// Lets go of the Lease, if it is still ours.
    async fn release(&self, api: &Api<Lease>) -> kube::Result<()> {
        let Some(mut lease) = api.get_opt(&self.lease).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        won(api.replace(&self.lease, &params, &lease).await).map(drop)
    }
}

/// What to do about the Lease `spec`, which has not changed for `age`.
fn step(spec: &LeaseSpec, identity: &str, age: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    match holder {
        "" => Step::Take,
        _ if holder == identity => Step::Renew,
        _ if age >= Duration::from_secs(seconds) => Step::Take,
        _ => Step::Wait,
    }
}

/// Whether a write went through. One that another was ahead of is no failure.
fn won<T>(written: kube::Result<T>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_nobodys_or_has_not_been_renewed() {
        let spec = |holder: Option<&str>, seconds| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        let rows = [
            (spec(None, None), 0, Step::Take),
            (spec(Some(""), Some(15)), 0, Step::Take),
            (spec(Some("me"), Some(15)), 60, Step::Renew),
            (spec(Some("other"), Some(15)), 0, Step::Wait),
            (spec(Some("other"), Some(15)), 14, Step::Wait),
            (spec(Some("other"), Some(15)), 15, Step::Take),
            (spec(Some("other"), None), 0, Step::Take),
            (spec(Some("other"), Some(-1)), 0, Step::Take),
        ];
        for (spec, age, expected) in rows {
            let found = step(&spec, "me", Duration::from_secs(age));
            assert_eq!(found, expected, "{spec:?} {age}");
        }
    }
}
