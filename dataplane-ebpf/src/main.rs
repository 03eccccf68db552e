//! The eBPF program: its entry points, one line per hook.
//!
//! What the hooks do and how a packet travels through them is told in the library's documentation. On any other
//! target than BPF this is an empty program, there so that it can be linted.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod bpf;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext, XdpContext};
use bpf::call::Call;
use bpf::frame::Frame;
use bpf::{device, socket, xdp};
use dataplane_ebpf::addr::Family;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    socket::connect(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    socket::connect(&Call::new(&ctx, Family::V6))
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::sendmsg(&Call::new(&ctx, Family::V6))
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::recvmsg(&Call::new(&ctx, Family::V6))
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::getpeername(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::getpeername(&Call::new(&ctx, Family::V6))
}

#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    socket::post_bind(&ctx, Family::V4)
}

#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    socket::post_bind(&ctx, Family::V6)
}

#[classifier]
fn ingress(ctx: TcContext) -> i32 {
    device::ingress(&ctx)
}

#[classifier]
fn egress(ctx: TcContext) -> i32 {
    device::egress(&ctx)
}

#[classifier]
fn pod_ingress(ctx: TcContext) -> i32 {
    device::pod_ingress(&ctx)
}

#[xdp]
fn driver(ctx: XdpContext) -> u32 {
    xdp::driver(&Frame::new(ctx))
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are reserved for programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
