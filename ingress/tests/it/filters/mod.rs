//! What requests pass between route and backend, one topic a file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

mod addresses;
mod blocked;
mod canary;
mod compression;
mod cors;
mod external_auth;
mod limits;
mod mirror;
mod passwords;

pub(crate) fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// The Secret `users` with the user `ann`, whose password is `pa55`.
pub(crate) fn users() -> Value {
    const FILE: &str = "ann:$2y$05$abcdefghijklmnopqrstuudf3HefogPKF0jsklyPu4pStEPtwqax6\n";
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "users", "namespace": "default"},
        "type": "Opaque",
        "data": {"auth": STANDARD.encode(FILE)},
    })
}

pub(crate) const BASIC: [(&str, &str); 3] = [
    ("auth-type", "basic"),
    ("auth-secret", "users"),
    ("auth-realm", "staff"),
];
