//! What a Service's round means to others than the kernel: load balancers that check this node's health, the Service's
//! owner, and those who measure. Gathered here by the reconciler, and taken from here by its loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use dataplane_ebpf::abi::{Kind, Service};
use model::{Event, ServiceName, Slice, World};

use crate::desired::{Port, Target};
use crate::events::Note;
use crate::health_check::{Change, Check, check};
use crate::standing::WithoutLocal;
use crate::tables::Error;

/// How many triggers of one Service are measured at most when it is applied.
const TRIGGERS: usize = 100;

/// What has come up since it was asked for last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// What is to be answered to health checks from now on.
    pub checks: Vec<Change>,
    /// What the owners of Services should know.
    pub notes: Vec<Note>,
    /// When that happened which is in the kernel now.
    pub programmed: Vec<SystemTime>,
}

/// Turns rounds into [`News`].
#[derive(Debug)]
pub(crate) struct Gathered {
    /// What happened earlier is not measured: nobody was here to make it so.
    started: SystemTime,
    checks: BTreeMap<ServiceName, Check>,
    without_local: BTreeMap<ServiceName, WithoutLocal>,
    total_without_local: WithoutLocal,
    triggers: BTreeMap<ServiceName, Vec<SystemTime>>,
    news: News,
}

impl Gathered {
    /// Nothing yet, for a daemon that `started` just now.
    pub(crate) fn new(started: SystemTime) -> Self {
        Self {
            started,
            checks: BTreeMap::new(),
            without_local: BTreeMap::new(),
            total_without_local: WithoutLocal::default(),
            triggers: BTreeMap::new(),
            news: News::default(),
        }
    }

    /// The news since they were taken last.
    pub(crate) fn take(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// How many Service ports are without an endpoint that their policy allows.
    pub(crate) fn without_local(&self) -> WithoutLocal {
        self.total_without_local
    }

    /// Takes in the addresses where NodePorts answer.
    pub(crate) fn addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.news.checks.push(Change::Addresses(addresses));
    }

    /// The triggers in `event`, with their Services.
    pub(crate) fn triggers(&self, event: &Event) -> Vec<(ServiceName, SystemTime)> {
        let slices: &[Slice] = match event {
            Event::Slices(all) => all,
            Event::Slice(slice) => std::slice::from_ref(slice),
            _ => &[],
        };
        let triggered = |slice: &Slice| {
            let at = slice.triggered.filter(|at| *at >= self.started)?;
            Some((slice.service.clone(), at))
        };
        slices.iter().filter_map(triggered).collect()
    }

    /// Takes in that what happened `at` some time changed the Service called `name`.
    pub(crate) fn trigger(&mut self, name: ServiceName, at: SystemTime) {
        let triggers = self.triggers.entry(name).or_default();
        if triggers.len() < TRIGGERS {
            triggers.push(at);
        }
    }

    /// Takes in how it went to bring the Service called `name` to what is `desired`; whether its owner should hear of a
    /// failure is `is_news`.
    pub(crate) fn reconciled(
        &mut self,
        world: &World,
        name: &ServiceName,
        desired: &[Port],
        result: &Result<(), Error>,
        is_news: bool,
    ) {
        self.note_check(world, name);
        self.count_without_local(name, desired);
        match result {
            Ok(()) => {
                let triggers = self.triggers.remove(name).unwrap_or_default();
                self.news.programmed.extend(triggers);
            }
            Err(_) if !is_news => {}
            Err(error) => self.news.notes.push(Note {
                service: name.clone(),
                uid: world.service(name).and_then(|service| service.uid.clone()),
                reason: "FailedToInstallService",
                message: format!("node {} could not install it: {error}", world.place().node),
            }),
        }
    }

    fn note_check(&mut self, world: &World, name: &ServiceName) {
        let new = check(world, name);
        if self.checks.get(name) == new.as_ref() {
            return;
        }
        match &new {
            Some(check) => self.checks.insert(name.clone(), check.clone()),
            None => self.checks.remove(name),
        };
        let change = Change::Service(name.clone(), new);
        self.news.checks.push(change);
    }

    fn count_without_local(&mut self, name: &ServiceName, desired: &[Port]) {
        let mut new = WithoutLocal::default();
        for port in desired.iter().filter(|port| port.local == Target::Drop) {
            let is_local = |flag| port.flags & flag != 0;
            let is_external = |kind: &Kind| ![Kind::CLUSTER_IP, Kind::ADDRESS].contains(kind);
            new.internal += u32::from(is_local(Service::INTERNAL_LOCAL));
            new.external += u32::from(
                is_local(Service::EXTERNAL_LOCAL) && port.entries.values().any(is_external),
            );
        }
        let old = match new == WithoutLocal::default() {
            true => self.without_local.remove(name),
            false => self.without_local.insert(name.clone(), new),
        };
        let old = old.unwrap_or_default();
        let total = &mut self.total_without_local;
        total.internal = total.internal - old.internal + new.internal;
        total.external = total.external - old.external + new.external;
    }
}
