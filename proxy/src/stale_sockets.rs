//! Destroys UDP sockets that are connected to a backend which is gone.
//!
//! `send` on a connected UDP socket fires no hook, so such a socket would send into the void for ever. Destroyed, its
//! program gets ECONNABORTED and connects anew. The connect hook leaves a mark at each backend that a UDP socket got; only
//! for those is anything looked for, in all network namespaces that can be found, by one thread of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use nix::sched::{CloneFlags, setns};
use tracing::{debug, info, warn};

use crate::maps::{self, Sockets};
use crate::sock_diag::SockDiag;
use crate::tables::Retired;

/// How many network namespaces are looked at; no node has as many pods.
const NAMESPACES: usize = 4096;
/// Where the namespaces of pods are by convention.
const NAMED: &str = "/run/netns";

/// A namespace could not be gone through.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot enter the network namespace")]
    Enter(#[source] io::Error),
    #[error("cannot list or destroy sockets")]
    SockDiag(#[from] io::Error),
    #[error(transparent)]
    Maps(#[from] maps::Error),
}

/// Destroys the sockets of what comes by `retired`, until nobody sends any more. To be run on a thread of its own, whose
/// network namespace it changes meanwhile: to stay in one would keep it after its pod is gone.
pub fn run(sockets: &Sockets, retired: &Receiver<Vec<Retired>>) {
    let own = match File::open("/proc/thread-self/ns/net") {
        Ok(own) => own,
        Err(error) => {
            warn!(
                ?error,
                "UDP sockets connected to a backend which is gone are not closed"
            );
            return;
        }
    };
    let mut may_enter = true;
    while let Ok(mut batch) = retired.recv() {
        batch.extend(retired.try_iter().flatten());
        destroy(sockets, batch, &mut may_enter);
        if let Err(error) = enter(&own)
            && may_enter
        {
            warn!(
                ?error,
                "UDP sockets connected to a backend which is gone are not closed any more"
            );
            return;
        }
    }
}

/// Destroys the sockets that got one of the backends in `batch`, in all namespaces. `may_enter` until it turns out
/// otherwise.
fn destroy(sockets: &Sockets, batch: Vec<Retired>, may_enter: &mut bool) {
    let gone: BTreeMap<SocketAddr, Vec<Retired>> = by_address(batch);
    let mut destroyed = 0;
    let mut failed = 0;
    for (path, namespace) in namespaces() {
        match destroy_in(&namespace, sockets, &gone) {
            Ok(count) => destroyed += count,
            Err(Error::Enter(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                if *may_enter {
                    *may_enter = false;
                    warn!(
                        "CAP_SYS_ADMIN is missing: UDP sockets of pods that are connected to a backend which is gone are \
                         not closed"
                    );
                }
                break;
            }
            Err(error) => {
                failed += 1;
                debug!(?error, path = %path.display(), "not looked at");
            }
        }
    }
    if destroyed > 0 || failed > 0 {
        info!(
            destroyed,
            failed, "closed UDP sockets connected to backends that are gone"
        );
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn by_address(retired: Vec<Retired>) -> BTreeMap<SocketAddr, Vec<Retired>> {
    let mut gone: BTreeMap<SocketAddr, Vec<Retired>> = BTreeMap::new();
    for backend in retired {
        let address = (backend.address.ip(), backend.port.number()).into();
        gone.entry(address).or_default().push(backend);
    }
    gone
}

/// Every network namespace that has a name or a process, once; ours first.
fn namespaces() -> Vec<(PathBuf, File)> {
    let own = PathBuf::from("/proc/self/ns/net");
    let named = entries(NAMED);
    let processes = entries("/proc").map(|process| process.join("ns/net"));
    let mut found = BTreeMap::new();
    let mut files = Vec::new();
    for path in std::iter::once(own).chain(named).chain(processes) {
        if files.len() == NAMESPACES {
            break;
        }
        // A process that is gone by now, or that may not be looked at; or a file that is no namespace.
        let Ok(id) = fs::metadata(&path).map(|metadata| (metadata.dev(), metadata.ino())) else {
            continue;
        };
        if let Ok(file) = File::open(&path)
            && found.insert(id, ()).is_none()
        {
            files.push((path, file));
        }
    }
    files
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Destroys the sockets in `namespace` that got one of the backends which are `gone`, by address, and returns how many.
fn destroy_in(
    namespace: &File,
    sockets: &Sockets,
    gone: &BTreeMap<SocketAddr, Vec<Retired>>,
) -> Result<usize, Error> {
    enter(namespace).map_err(Error::Enter)?;
    let mut diag = SockDiag::open()?;
    let mut destroyed = 0;
    for socket in diag.connected()? {
        let Some(backends) = gone.get(&socket.peer) else {
            continue;
        };
        // A socket may have connected to the same address without any service.
        let Some(peer) = sockets.backend(socket.cookie, socket.peer)? else {
            continue;
        };
        let got = |backend: &Retired| {
            backend.id == peer.backend_id && backend.generation == peer.backend_generation
        };
        if backends.iter().any(got) && diag.destroy(&socket)? {
            destroyed += 1;
        }
    }
    Ok(destroyed)
}
