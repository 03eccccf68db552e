//! What the gateway keeps on the heap, counted byte by byte: a resident figure hides in its noise what a connection takes.
//!
//! The tests' own ends are sockets of the standard library, which have nothing on the heap, and a few tasks.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../it/apart.rs"]
#[expect(dead_code, reason = "resident memory is not asked for here")]
mod apart;
#[path = "../it/backend.rs"]
#[expect(dead_code, reason = "not every kind of backend is needed here")]
mod backend;
mod floods;
#[path = "../it/harness.rs"]
#[expect(dead_code, reason = "not every kind of object is needed here")]
mod harness;
mod idle;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Bytes that are allocated now.
fn heap() -> u64 {
    dhat::HeapStats::get().curr_bytes as u64
}
