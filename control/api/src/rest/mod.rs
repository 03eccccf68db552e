//! The generic REST engine: create, read, list, watch, update, patch and delete for every kind of the schema. What differs
//! between kinds is in [`crate::hooks`].

mod create;
mod delete;
mod filter;
mod list;
mod meta;
mod patch;
mod read;
mod render;
mod update;
mod watch;
mod write;

pub(crate) use create::Creation;
pub(crate) use create::create;
pub(crate) use delete::{DeleteOptions, delete, delete_collection, remove};
pub(crate) use list::list;
pub(crate) use meta::{at as time, now, random_suffix};
pub(crate) use patch::patch;
pub(crate) use read::{entry, get};
pub(crate) use update::{Update, put};
pub(crate) use watch::watch;

use bytes::Bytes;
use http::HeaderMap;

use crate::accept::Accept;
use crate::api::Api;
use crate::identity::User;
use crate::query::Params;
use crate::route::Target;

/// One authorized request for a resource, its body read.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) api: &'a Api,
    pub(crate) user: &'a User,
    pub(crate) target: &'a Target,
    pub(crate) params: &'a Params,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) accept: Accept,
    pub(crate) body: Bytes,
}

impl Call<'_> {
    pub(crate) fn user_agent(&self) -> &str {
        self.headers
            .get(http::header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The name of the subresource, if the request is for one.
    pub(crate) fn sub(&self) -> Option<&'static str> {
        self.target.sub.map(|sub| sub.name)
    }
}
