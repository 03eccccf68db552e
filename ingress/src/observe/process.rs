//! What the process itself uses, as the kernel counts it.

use std::fmt;
use std::fs;

use crate::observe::metrics::{family, sample};

/// Clock ticks in a second of `/proc/self/stat`; the kernel's `USER_HZ`, the same on every architecture we build for.
const TICKS: f64 = 100.0;

/// What `/proc/self` says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Usage {
    cpu_seconds: f64,
    /// After the kernel.
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

/// Writes it under ingress-nginx's names, with the labels `common`. Where it cannot be read it is left out.
pub(crate) fn write(out: &mut String, common: &str) -> fmt::Result {
    let read = |file| fs::read_to_string(file).ok();
    let usage = read("/proc/self/stat").zip(read("/proc/self/status"));
    let Some(usage) = usage.and_then(|(stat, status)| parse(&stat, &status)) else {
        return Ok(());
    };
    let prefix = "nginx_ingress_controller_nginx_process";
    let cpu = format!("{prefix}_cpu_seconds_total");
    family(out, &cpu, "counter", "CPU time used")?;
    sample(out, &cpu, common, usage.cpu_seconds)?;
    let resident = format!("{prefix}_resident_memory_bytes");
    family(out, &resident, "gauge", "Memory in use")?;
    sample(out, &resident, common, usage.resident_bytes)?;
    let mapped = format!("{prefix}_virtual_memory_bytes");
    family(out, &mapped, "gauge", "Memory mapped")?;
    sample(out, &mapped, common, usage.virtual_bytes)?;
    let processes = format!("{prefix}_num_procs");
    family(out, &processes, "gauge", "Processes")?;
    sample(out, &processes, common, 1)?;
    let kernel = read("/proc/stat").and_then(|stat| number(&stat, "btime "));
    if let Some(kernel) = kernel {
        let started = format!("{prefix}_oldest_start_time_seconds");
        family(out, &started, "gauge", "Start, in seconds since 1970")?;
        sample(out, &started, common, kernel as f64 + usage.started)?;
    }
    let io = read("/proc/self/io").unwrap_or_default();
    for (name, what) in [
        ("read_bytes", "Bytes read from disks"),
        ("write_bytes", "Bytes written to disks"),
    ] {
        let Some(bytes) = number(&io, &format!("{name}: ")) else {
            continue;
        };
        let name = format!("{prefix}_{name}_total");
        family(out, &name, "counter", what)?;
        sample(out, &name, common, bytes)?;
    }
    Ok(())
}

/// The number in the line of `text` that begins with `name`.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name of the program is in brackets and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.trim().strip_suffix("kB")?;
        Some(number.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Usage {
        cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
        started: ticks(19)? / TICKS,
        virtual_bytes: kilobytes("VmSize:")?,
        resident_bytes: kilobytes("VmRSS:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_right() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1 2";
        let status = "Name:\ta\nVmSize:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Usage {
            cpu_seconds: 2.0,
            started: 1.0,
            virtual_bytes: 2 << 20,
            resident_bytes: 1 << 20,
        };
        assert_eq!(parse(stat, status), Some(expected));
        assert_eq!(parse("7 (a", status), None);
        let mut own = String::new();
        write(&mut own, "").expect("text");
        assert!(
            own.contains("nginx_process_resident_memory_bytes "),
            "{own}"
        );
    }
}
