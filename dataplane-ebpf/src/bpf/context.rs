//! What reading and changing a packet needs of the hook that has it, so that one code does both for every hook.

use aya_ebpf::bindings::{BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_csum_update;
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;

/// A packet in a hook. Offsets count from the Ethernet header on.
pub(crate) trait Context {
    /// Its bytes, from the Ethernet header on.
    fn length(&self) -> u32;

    /// The EtherType of what it carries.
    fn ether_type(&self) -> u32;

    /// Copies a value out of it.
    fn load<T>(&self, offset: usize) -> Result<T, Drop>;

    /// Copies a value into it.
    fn store<T>(&self, offset: usize, value: &T) -> Result<(), Drop>;

    /// Changes the IPv4 header's checksum at `offset` for a change of what it covers.
    fn change_network_checksum(&self, offset: usize, change: Sum) -> Result<(), Drop>;

    /// Changes the checksum at `offset` of a transport header: for a change of `pseudo` in what only the pseudo-header
    /// holds, and of `covered` in the header or after it. A UDP checksum of zero means none, and stays (RFC 768).
    fn change_transport_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        is_v4: bool,
        pseudo: Sum,
        covered: Sum,
    ) -> Result<(), Drop>;

    /// The same without a change of the pseudo-header.
    fn change_covered_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        change: Sum,
    ) -> Result<(), Drop>;

    /// Tells of a change that no checksum in the packet absorbs: a device's own sum of the packet changes by it
    /// (CHECKSUM_COMPLETE). Nothing to do where there is no such sum.
    fn change_device_sum(&self, _change: Sum) {}
}

/// The value of integers at `place`, read half a word at a time: headers lie at even addresses, and byte by byte takes
/// twice as many reads.
///
/// # Safety
///
/// `place` is even and has the bytes of a `T`, for which any bits are legal.
#[inline(always)]
pub(crate) unsafe fn read_halves<T>(place: *const u8) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr().cast::<u8>();
    let halves = size_of::<T>() / 2;
    // SAFETY: both have the bytes of a `T`, all of which are written, and `place` is even.
    unsafe {
        for half in 0..halves {
            let read = place.cast::<u16>().add(half).read();
            to.cast::<u16>().add(half).write_unaligned(read);
        }
        if size_of::<T>() % 2 == 1 {
            *to.add(halves * 2) = *place.add(halves * 2);
        }
        value.assume_init()
    }
}

/// By helpers, which work for packets of any shape, paged or not, and know which checksums a device is still to complete.
impl Context for TcContext {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn ether_type(&self) -> u32 {
        u32::from(u16::from_be(self.skb.protocol() as u16))
    }

    #[inline(always)]
    fn load<T>(&self, offset: usize) -> Result<T, Drop> {
        self.skb.load(offset).map_err(|_| Drop::Malformed)
    }

    #[inline(always)]
    fn store<T>(&self, offset: usize, value: &T) -> Result<(), Drop> {
        self.skb
            .store(offset, value, u64::from(BPF_F_INVALIDATE_HASH))
            .map_err(|_| Drop::Rewrite)
    }

    #[inline(always)]
    fn change_network_checksum(&self, offset: usize, change: Sum) -> Result<(), Drop> {
        self.l3_csum_replace(offset, 0, u64::from(change.folded()), 0)
            .map_err(|_| Drop::Rewrite)
    }

    /// The kernel has to know what only the pseudo-header holds: if a device is still to complete the checksum, the field
    /// holds the pseudo-header's sum alone.
    #[inline(always)]
    fn change_transport_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        is_v4: bool,
        pseudo: Sum,
        covered: Sum,
    ) -> Result<(), Drop> {
        let flags = zero_flag(protocol) | u64::from(BPF_F_PSEUDO_HDR);
        self.l4_csum_replace(offset, 0, u64::from(pseudo.folded()), flags)
            .map_err(|_| Drop::Rewrite)?;
        if !is_v4 {
            // If the device summed the packet, the helper has changed that sum as if an IPv4 header's checksum had
            // absorbed the addresses. IPv6 has none, so the sum must stay as it was.
            self.change_device_sum(pseudo);
        }
        self.change_covered_checksum(offset, protocol, covered)
    }

    #[inline(always)]
    fn change_covered_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        change: Sum,
    ) -> Result<(), Drop> {
        let change = u64::from(change.folded());
        self.l4_csum_replace(offset, 0, change, zero_flag(protocol))
            .map_err(|_| Drop::Rewrite)
    }

    #[inline(always)]
    fn change_device_sum(&self, change: Sum) {
        // Fails without such a sum.
        // SAFETY: the helper changes only the packet's metadata.
        unsafe { bpf_csum_update(self.skb.skb, change.folded()) };
    }
}

/// Tells the helper that a checksum of zero means none.
#[inline(always)]
fn zero_flag(protocol: Protocol) -> u64 {
    match protocol {
        Protocol::UDP => u64::from(BPF_F_MARK_MANGLED_0),
        _ => 0,
    }
}
