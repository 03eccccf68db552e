//! Subresources that are more than a view of their object: scale, binding, eviction, token, log and exec.

mod bind;
mod evict;
mod scale;
mod stream;
mod token;

pub(crate) use bind::{bind, bind_to};
pub(crate) use evict::evict;
pub(crate) use scale::scale;
pub(crate) use stream::stream_of;
pub(crate) use token::token;
