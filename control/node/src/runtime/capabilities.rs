//! Capability names and numbers, and the set a container gets by default.

/// Names by number, without their `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What every container runtime grants by default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The numbers of all capabilities.
pub(crate) fn all() -> Vec<u8> {
    (0..=u8::MAX).take(NAMES.len()).collect()
}

/// The default set with `add` and without `drop`; `ALL` stands for every one. An unknown name is given back.
pub(crate) fn choose(add: &[String], drop: &[String]) -> Result<Vec<u8>, String> {
    let mut chosen = numbers(DEFAULT)?;
    // Order matters only for ALL: dropping all and adding one leaves that one.
    if names(drop).any(|name| name == "ALL") {
        chosen.clear();
    }
    if names(add).any(|name| name == "ALL") {
        chosen = all();
    }
    let dropped = numbers(names(drop).filter(|name| name != "ALL"))?;
    let added = numbers(names(add).filter(|name| name != "ALL"))?;
    chosen.retain(|number| !dropped.contains(number));
    chosen.extend(added);
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

fn names(given: &[String]) -> impl Iterator<Item = String> {
    given.iter().map(|name| {
        name.to_ascii_uppercase()
            .trim_start_matches("CAP_")
            .to_owned()
    })
}

fn numbers(names: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Vec<u8>, String> {
    names
        .into_iter()
        .map(|name| number(name.as_ref()).ok_or_else(|| name.as_ref().to_owned()))
        .collect()
}

fn number(name: &str) -> Option<u8> {
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|index| u8::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: Result<&[&str], &str>) {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let expected = expected.map_err(str::to_owned).map(|names| {
            let mut numbers = numbers(names).expect("known names");
            numbers.sort_unstable();
            numbers
        });
        assert_eq!(choose(&owned(add), &owned(drop)), expected);
    }

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_default_set() {
        check(&[], &["ALL"], Ok(&[]));
        check(&["NET_ADMIN"], &["ALL"], Ok(&["NET_ADMIN"]));
        check(&["CAP_NET_ADMIN"], &["all"], Ok(&["NET_ADMIN"]));
        check(
            &["ALL"],
            &["SYS_ADMIN"],
            Ok(&NAMES
                .iter()
                .copied()
                .filter(|n| *n != "SYS_ADMIN")
                .collect::<Vec<_>>()),
        );
        check(&[], &[], Ok(&DEFAULT));
        check(&["FLY"], &[], Err("FLY"));
    }
}
