//! A frame in a driver's memory, before the kernel has made a packet of it.
//!
//! Bytes are read and written in place, which takes no call at all. There is one stretch of memory: a driver gives
//! frames in pieces only to programs that say they can take them. And there is nobody to complete a checksum later, so
//! every change is worked into it here (RFC 1624).

use super::context::{Context, read_halves};
use aya_ebpf::EbpfContext;
use aya_ebpf::programs::XdpContext;
use core::ffi::c_void;
use dataplane_ebpf::abi::Mac;
use dataplane_ebpf::addr::Protocol;
use dataplane_ebpf::checksum::Sum;
use dataplane_ebpf::drop::Drop;

/// Nothing that is read begins beyond: the verifier wants a bound ("math between pkt pointer and register with
/// unbounded min value is not allowed").
const FARTHEST: usize = 511;

/// The frame of an XDP program.
pub(crate) struct Frame {
    ctx: XdpContext,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// The index of the device it came by.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// Whom it is addressed to.
    #[inline(always)]
    pub(crate) fn destination(&self) -> Result<Mac, Drop> {
        self.load(0).map(Mac::from_words)
    }

    /// The kernel's context.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }

    /// The place of a `T` at `offset`, if the frame has that many bytes.
    #[inline(always)]
    fn place<T>(&self, offset: usize) -> Option<*mut u8> {
        if offset > FARTHEST {
            return None;
        }
        let place = (self.ctx.data() as *mut u8).wrapping_add(offset);
        let end = place.wrapping_add(size_of::<T>());
        (end as usize <= self.ctx.data_end()).then_some(place)
    }
}

impl Context for Frame {
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.ctx.data_end() - self.ctx.data()) as u32
    }

    #[inline(always)]
    fn ether_type(&self) -> u32 {
        self.load(12)
            .map_or(0, |field| u32::from(u16::from_be(field)))
    }

    #[inline(always)]
    fn load<T>(&self, offset: usize) -> Result<T, Drop> {
        let place = self.place::<T>(offset).ok_or(Drop::Malformed)?;
        // SAFETY: `place` has the bytes of a `T`. Frames begin at even addresses, and so does every header in them.
        Ok(unsafe { read_halves(place) })
    }

    #[inline(always)]
    fn store<T>(&self, offset: usize, value: &T) -> Result<(), Drop> {
        let place = self.place::<T>(offset).ok_or(Drop::Rewrite)?;
        let from = (&raw const *value).cast::<u8>();
        let halves = size_of::<T>() / 2;
        for half in 0..halves {
            // SAFETY: as in `load`; no reference leads into a frame.
            unsafe {
                place
                    .cast::<u16>()
                    .add(half)
                    .write(from.cast::<u16>().add(half).read_unaligned())
            };
        }
        if size_of::<T>() % 2 == 1 {
            // SAFETY: the last byte of both.
            unsafe { *place.add(halves * 2) = *from.add(halves * 2) };
        }
        Ok(())
    }

    #[inline(always)]
    fn change_network_checksum(&self, offset: usize, change: Sum) -> Result<(), Drop> {
        let field: u16 = self.load(offset)?;
        self.store(offset, &change.applied_to(field))
    }

    #[inline(always)]
    fn change_transport_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        _is_v4: bool,
        pseudo: Sum,
        covered: Sum,
    ) -> Result<(), Drop> {
        self.change_covered_checksum(offset, protocol, pseudo.add_sum(covered))
    }

    #[inline(always)]
    fn change_covered_checksum(
        &self,
        offset: usize,
        protocol: Protocol,
        change: Sum,
    ) -> Result<(), Drop> {
        let field: u16 = self.load(offset)?;
        let new = change.applied_to(field);
        match (protocol, field, new) {
            (Protocol::UDP, 0, _) => Ok(()),
            // A sum of zero is written as its other form, since zero means none (RFC 768).
            (Protocol::UDP, _, 0) => self.store(offset, &u16::MAX),
            _ => self.store(offset, &new),
        }
    }
}
