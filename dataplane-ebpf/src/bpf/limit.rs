//! How many ICMP errors are answered with: whoever sends packets with somebody else's address could otherwise have us send
//! that one as many (RFC 4443, section 2.4(f); RFC 1812, section 4.3.2.8).

use super::maps::NEXT_ANSWER;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

/// The time between two errors of one CPU in the long run: a thousand in a second, Linux's `icmp_msgs_per_sec`.
const INTERVAL: u64 = 1_000_000;

/// How many may follow each other at once, Linux's `icmp_msgs_burst`.
const BURST: u64 = 50;

/// Whether one more error may be sent; it counts as sent then.
///
/// Each error sent puts off the time when the next one would be due, which may be ahead by a burst but no more.
#[inline(always)]
pub(crate) fn allows_error() -> bool {
    let Some(next) = NEXT_ANSWER.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a non-null pointer to this CPU's own value; nothing else on this CPU writes it meanwhile.
    let next = unsafe { &mut *next };
    let due = (*next).max(now.saturating_sub(BURST * INTERVAL));
    if due >= now {
        return false;
    }
    *next = due + INTERVAL;
    true
}
