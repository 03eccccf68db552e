//! The runtime's seccomp profile: a filter that refuses the system calls no ordinary program needs.
//!
//! It is a list of what is refused, not of what is allowed: most of it needs a capability that containers lack anyway,
//! so this is a second wall, and a program that uses a new system call goes on working. Pods get it when they ask for
//! `seccompProfile: RuntimeDefault`, as in Kubernetes.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Refused with EPERM.
const REFUSED: [libc::c_long; 42] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
/// Set in the numbers of x86's 32-bit-pointer variant.
const X32: u32 = 0x4000_0000;

/// Offsets in the kernel's `struct seccomp_data`; the low half of the first argument comes first on little-endian.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENT_0: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_IMPLEMENTED: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The filter's program.
pub(super) fn filter() -> Vec<sock_filter> {
    let mut program = vec![
        // Numbers mean something else in other architectures' modes.
        load(ARCH),
        jump(BPF_JEQ, ARCHITECTURE, 1, 0),
        give(NOT_PERMITTED),
        load(NUMBER),
        jump(BPF_JSET, X32, 0, 1),
        give(NOT_IMPLEMENTED),
    ];
    for number in REFUSED {
        program.extend([jump(BPF_JEQ, number_of(number), 0, 1), give(NOT_PERMITTED)]);
    }
    program.extend([
        // Its flags are behind a pointer, where a filter cannot look; C libraries fall back to clone.
        jump(BPF_JEQ, number_of(libc::SYS_clone3), 0, 1),
        give(NOT_IMPLEMENTED),
        jump(BPF_JEQ, number_of(libc::SYS_clone), 0, 3),
        load(ARGUMENT_0),
        jump(BPF_JSET, namespace_flags(), 0, 1),
        give(NOT_PERMITTED),
        give(ALLOW),
    ]);
    program
}

fn number_of(number: libc::c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The flags of `clone` that make namespaces.
fn namespace_flags() -> u32 {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    flags.cast_unsigned()
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

fn jump(condition: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(BPF_JMP | condition | BPF_K, value, if_true, if_false)
}

fn give(verdict: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, verdict, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Codes are 16 bits wide by definition.
    sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}
