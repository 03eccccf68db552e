//! Putting an address on the loopback device, in a network namespace of the test's own.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use crate::address::ensure;

#[test]
fn a_missing_address_is_put_on_the_loopback_device_once() {
    assert!(
        Uid::effective().is_root(),
        "this test makes a network namespace and has to run as root"
    );
    // A namespace belongs to a thread: this one takes its own with it when it ends.
    thread::spawn(add_in_own_namespace)
        .join()
        .expect("no panic");
}

fn add_in_own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let addresses: [SocketAddr; 2] = [
        "169.254.20.10:53".parse().expect("an address"),
        "[fd00:53::1]:53".parse().expect("an address"),
    ];
    runtime.block_on(async {
        set_loopback_up().await;
        assert!(
            addresses
                .iter()
                .all(|address| UdpSocket::bind(address).is_err())
        );
        ensure(&addresses).await.expect("addresses");
        ensure(&addresses).await.expect("nothing to do");
    });
    for address in addresses {
        UdpSocket::bind(address).expect("the address is there");
    }
}

async fn set_loopback_up() {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_index(1).up().build();
    handle
        .link()
        .change(up)
        .execute()
        .await
        .expect("the loopback device is up");
}
