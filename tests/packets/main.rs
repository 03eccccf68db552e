//! The dataplane's programs in the real kernel: packets through `BPF_PROG_TEST_RUN`, system calls of real sockets, and
//! traffic between network namespaces. Everything here needs root.

mod budget;
mod cgroup;
mod cpu;
mod dataplane;
mod frame;
mod fuzz;
mod golden;
mod pcap;
mod sockets;
mod wire;
