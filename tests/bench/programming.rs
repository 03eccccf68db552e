//! The daemon's part: from a list or an event of the API to the maps, and what it takes of memory and processor time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::Namespace;

use crate::api::Kind;
use crate::changes::{Changes, RATE};
use crate::daemon::{Daemon, Resident, Setting};
use crate::kernel;
use crate::objects::Cluster;
use crate::report::{Cell, Figure, Table};
use crate::sandbox::Sandbox;

const ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 1);
const ENDPOINTS: u32 = 5;

struct Scale {
    sizes: [u32; 2],
    /// Cold starts at each size.
    starts: usize,
    /// Single changes.
    changes: u32,
    sustained: Duration,
    idle: Duration,
}

const FULL: Scale = Scale {
    sizes: [100, 50_000],
    starts: 3,
    changes: 300,
    sustained: Duration::from_secs(10),
    idle: Duration::from_secs(10),
};

const QUICK: Scale = Scale {
    sizes: [100, 5_000],
    starts: 1,
    changes: 50,
    sustained: Duration::from_secs(2),
    idle: Duration::from_secs(3),
};

/// One daemon's figures.
struct Figures {
    /// Milliseconds from the first request to the maps being right.
    start: Figure,
    /// Milliseconds from the last byte of the last list.
    after_list: Figure,
    /// The same in milliseconds of the daemon's processor time.
    used: Figure,
    used_after_list: Figure,
    /// Microseconds from an event to the map.
    change: Figure,
    /// The same while changes come in fast.
    sustained: Figure,
    /// Share of a processor meanwhile.
    busy: f64,
    /// Share of a processor when nothing happens.
    idle: f64,
    resident: Resident,
    memory: Vec<kernel::Memory>,
}

pub(crate) fn measure(sandbox: &Sandbox, quick: bool) -> Result<Vec<Table>> {
    let scale = if quick { &QUICK } else { &FULL };
    let [small, large] = scale.sizes;
    let figures = [
        measure_size(sandbox, small, scale)?,
        measure_size(sandbox, large, scale)?,
    ];
    Ok(vec![
        table(scale, &figures),
        memory_table(large, &figures[1]),
    ])
}

fn measure_size(sandbox: &Sandbox, services: u32, scale: &Scale) -> Result<Figures> {
    let cluster = Cluster {
        services,
        endpoints: ENDPOINTS,
        real: Vec::new(),
        protocol: "tcp",
        node_ports: false,
    };
    let (mut starts, mut after_lists) = (Vec::new(), Vec::new());
    let (mut used, mut used_after_lists) = (Vec::new(), Vec::new());
    let mut running = None;
    for number in 0..scale.starts {
        // The one before ends first.
        drop(running.take());
        let name = format!("programming-{services}-{number}");
        let namespace = node()?;
        let cgroup = sandbox.cgroup(&name)?;
        let setting = Setting {
            name: &name,
            namespace: &namespace,
            address: ADDRESS,
            cgroup: &cgroup,
            cluster: &cluster,
            at_driver: false,
        };
        let mut daemon = Daemon::start(sandbox, &setting)?;
        let start = daemon.wait(&cluster)?;
        let times = daemon.api.times();
        let asked = times.asked.context("the daemon has asked")?;
        let listed = times.listed.context("the daemon has listed")?;
        let passed = |since| start.done.saturating_duration_since(since).as_secs_f64() * 1e3;
        starts.push(passed(asked));
        after_lists.push(passed(listed));
        used.push(start.used_after(asked).as_secs_f64() * 1e3);
        used_after_lists.push(start.used_after(listed).as_secs_f64() * 1e3);
        running = Some((namespace, daemon, start.maps));
    }
    let (_namespace, daemon, maps) = running.context("at least one start")?;
    while !daemon.api.is_watched(Kind::Slices) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let resident = daemon.resident()?;
    let mut changes = Changes::new(&daemon, &maps, &cluster);
    let change = changes.one_by_one(scale.changes)?;
    let begun = (Instant::now(), daemon.processor_time()?);
    let sustained = changes.sustained(scale.sustained)?;
    let busy = share(&daemon, begun)?;
    // What the changes left to do is done within the quarantine of ids, a second.
    std::thread::sleep(Duration::from_secs(2));
    let begun = (Instant::now(), daemon.processor_time()?);
    std::thread::sleep(scale.idle);
    Ok(Figures {
        start: Figure::of(starts),
        after_list: Figure::of(after_lists),
        used: Figure::of(used),
        used_after_list: Figure::of(used_after_lists),
        change,
        sustained,
        busy,
        idle: share(&daemon, begun)?,
        resident,
        memory: kernel::memory(&daemon.pins)?,
    })
}

/// A node with an uplink.
fn node() -> Result<Namespace> {
    let node = Namespace::create()?;
    node.ip(&format!(
        "link add uplink type veth peer name wire
         link set wire up
         link set uplink up
         addr add {ADDRESS}/24 dev uplink
         route add default via 192.0.2.254"
    ))?;
    Ok(node)
}

/// The share of one processor that the daemon has used since.
fn share(daemon: &Daemon, (at, used): (Instant, Duration)) -> Result<f64> {
    let more = daemon.processor_time()?.saturating_sub(used);
    Ok(100.0 * more.as_secs_f64() / at.elapsed().as_secs_f64())
}

fn table(scale: &Scale, figures: &[Figures; 2]) -> Table {
    let [small, large] = scale.sizes;
    let mut table = Table::new(
        "From the API to the maps",
        format!(
            "`measure l4 programming`: the real daemon, a server of prepared answers, Services with {ENDPOINTS} endpoints \
             each; medians of {} starts (minimum and maximum), {} single changes, then {RATE} changes a second for {} s, \
             then {} s of nothing.",
            scale.starts,
            scale.changes,
            scale.sustained.as_secs(),
            scale.idle.as_secs()
        ),
        &[
            "figure",
            &format!("{small} Services"),
            &format!("{large} Services"),
            "goal at 50,000",
        ],
    );
    let mut add = |name: &str, goal: &str, value: &dyn Fn(&Figures) -> Cell| {
        let cells = figures.iter().map(value);
        let row = [name.into()].into_iter().chain(cells).chain([goal.into()]);
        table.add(row.collect());
    };
    let mebibytes = |kibibytes: f64| Cell::Number(kibibytes / 1024.0, 1);
    add(
        "cold start, first request to all maps right, ms",
        "",
        &|f| Cell::Figure(f.start.clone(), 0),
    );
    add(
        "of it after the last byte of the last list, ms",
        "1000",
        &|f| Cell::Figure(f.after_list.clone(), 0),
    );
    add("the whole start in processor time, ms", "", &|f| {
        Cell::Figure(f.used.clone(), 0)
    });
    add("of it after the last list, ms", "", &|f| {
        Cell::Figure(f.used_after_list.clone(), 0)
    });
    add("an endpoint changes: event to map, p50, µs", "", &|f| {
        Cell::Number(f.change.quantile(0.5), 0)
    });
    add("the same, p99, µs", "1000", &|f| {
        Cell::Number(f.change.quantile(0.99), 0)
    });
    add("the same at 1,000 changes/s, p50, µs", "", &|f| {
        Cell::Number(f.sustained.quantile(0.5), 0)
    });
    add("the same, p99, µs", "no lag", &|f| {
        Cell::Number(f.sustained.quantile(0.99), 0)
    });
    add("the same, the longest, µs", "no lag", &|f| {
        Cell::Number(f.sustained.quantile(1.0), 0)
    });
    add("processor meanwhile, % of one", "", &|f| {
        Cell::Number(f.busy, 1)
    });
    add(
        "processor of an idle daemon, % of one",
        "nothing measurable",
        &|f| Cell::Number(f.idle, 3),
    );
    add("resident memory, MiB", "150", &|f| {
        mebibytes(f.resident.all)
    });
    add("of it anonymous, MiB", "", &|f| {
        mebibytes(f.resident.anonymous)
    });
    add("the most it ever was, MiB", "", &|f| {
        mebibytes(f.resident.peak)
    });
    add("memory of the maps in the kernel, MiB", "", &|f| {
        mebibytes(f.memory.iter().map(|map| map.bytes).sum::<u64>() as f64 / 1024.0)
    });
    table
}

fn memory_table(services: u32, figures: &Figures) -> Table {
    let mut table = Table::new(
        "Memory of the maps in the kernel",
        format!("By `fdinfo`, with {services} Services and {ENDPOINTS} endpoints each."),
        &["map", "entries", "MiB"],
    );
    for map in &figures.memory {
        table.add(vec![
            Cell::Text(map.map.clone()),
            Cell::Number(f64::from(map.entries), 0),
            Cell::Number(map.bytes as f64 / f64::from(1 << 20), 2),
        ]);
    }
    table
}
