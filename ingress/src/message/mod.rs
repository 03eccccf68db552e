//! Requests and answers and what they are made of: hosts, paths, fields, cookies, bodies, trailers, and the texts that are
//! made from them.

pub mod answer;
pub mod body;
pub mod cookie;
pub mod grpc;
pub mod headers;
pub mod host;
pub mod path;
pub mod trailers;
pub mod variables;
