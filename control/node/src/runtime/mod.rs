//! Runs containers: a small runtime of our own.
//!
//! # Why our own
//! A pod needs little of the OCI runtime specification: joined namespaces, an overlay root, bind mounts, a cgroup, a
//! smaller capability set. The `libcontainer` crate was measured beside a prototype of this shape before this was
//! written: 29 ms from create to delete against the prototype's 5 to 11 ms, and 137 crates against the system call
//! wrappers we have anyway.
//!
//! # Who is whose parent
//! ```text
//! agent ──starts──> shim (hidden command of the same program, own session, cgroup `shim` of the pod)
//!                     └─forks─> process 1 of the container: joins the pod's namespaces, builds its root, execs
//! ```
//! The shim outlives the agent: it copies the container's output into log files and writes down how the container
//! ended. Everything that must be known again after a restart is in files of the container's directory:
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | agent | everything the shim needs ([`ContainerSpec`]) |
//! | `started.json` | shim | process ids and start time ([`Started`]) |
//! | `exit.json` | shim, durably | code, signal, time ([`Exit`]) |
//! | `upper`, `work`, `rootfs` | shim | the container's root; it is mounted in the container's mount namespace only |
//!
//! # Devices
//! There is no device cgroup: every mount of a container is `nodev`, and `/dev` holds bind mounts of the six devices
//! that every program may use. A device node that an image brings or a process makes cannot be opened.

pub(crate) mod capabilities;
pub(crate) mod cgroup;
mod control;
pub(crate) mod enter;
mod init;
pub(crate) mod log;
mod mounts;
mod seccomp;
pub(crate) mod shim;
mod spec;

pub(crate) use control::{Container, Found, RuntimeError, clean};
pub(crate) use enter::ExecRequest;
pub(crate) use spec::{
    ContainerSpec, Exit, Limits, Mount, Namespaces, Process, Security, Started, User, UserName,
    read_json,
};
